"""Installs UTI. Everything is read from settings.ini, which nbdev reads too."""

from configparser import ConfigParser
from pathlib import Path

from setuptools import find_packages, setup

here = Path(__file__).parent
settings = ConfigParser(delimiters=["="], interpolation=None)
settings.read(here / "settings.ini", encoding="utf-8")
cfg = settings["DEFAULT"]
extras = {name: cfg[f"{name}_requirements"].split() for name in cfg["extras"].split()}
# pesq and visqol-python are built by a C++ compiler, which not every machine has
built = {"perceptual"}
extras["all"] = sorted({one for name, some in extras.items() if name not in built for one in some})

setup(
    name=cfg["lib_name"],
    version=cfg["version"],
    description=cfg["description"],
    long_description=(here / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    author=cfg["author"],
    author_email=cfg["author_email"],
    url=cfg["git_url"],
    license="Apache-2.0",
    keywords=cfg["keywords"].split(),
    packages=find_packages(include=["uti", "uti.*"]),
    include_package_data=True,
    python_requires=f">={cfg['min_python']}",
    install_requires=cfg["requirements"].split(),
    extras_require={**extras, "dev": [*extras["all"], *cfg["dev_requirements"].split()]},
    entry_points={
        "console_scripts": cfg["console_scripts"].split(),
        "uti.codecs": cfg["codec_entry_points"].split(),
    },
    zip_safe=False,
)
