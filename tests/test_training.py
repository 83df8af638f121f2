"""The notebooks that trained the embedded codecs run, resume, and make files that the codecs load."""

import shutil
from pathlib import Path

import nbformat
import papermill
import pytest
import torch
from safetensors import safe_open

from uti.codecs.embedded.audio import EmbeddedAudio
from uti.codecs.embedded.image import EmbeddedImage
from uti.codecs.embedded.text import EmbeddedText

TRAIN = Path(__file__).parent.parent / "nbs" / "train"


def run(name, tmp_path, **parameters):
    papermill.execute_notebook(
        str(TRAIN / name),
        str(tmp_path / "run.ipynb"),
        parameters=parameters,
        progress_bar=False,
        kernel_name="python3",
    )
    notebook = nbformat.read(tmp_path / "run.ipynb", as_version=4)
    return "".join(o.get("text", "") for c in notebook.cells if c.cell_type == "code" for o in c.outputs)


@pytest.mark.slow  # the whole training notebook
def test_text(tmp_path):
    run("train_text.ipynb", tmp_path, out=str(tmp_path), vocab_size=400)
    codec = EmbeddedText(tmp_path / "text.json")
    assert codec.spec.codebook_sizes == (400,)
    assert codec.decode(*codec.encode(["naïve 漢字"])) == ["naïve 漢字"]


@pytest.mark.slow  # the whole training notebook
def test_image_trains_and_resumes(tmp_path):
    settings = dict(out=str(tmp_path / "out"), pictures=2, batch=2, crop=64, photos=1, adversarial=0.6)
    run("train_image.ipynb", tmp_path, steps=2, **settings)
    first = torch.load(tmp_path / "out" / "checkpoint.pt", weights_only=True)["errors"]
    run("train_image.ipynb", tmp_path, steps=3, **settings)  # the third with a discriminator
    second = torch.load(tmp_path / "out" / "checkpoint.pt", weights_only=True)["errors"]
    assert len(first) == 2 and second[:2] == first and len(second) == 3
    codec = EmbeddedImage(weights=tmp_path / "out" / "image.safetensors")
    assert codec.encode(torch.rand(1, 3, 256, 256)).codes.shape == (1, 1, 1024)


@pytest.mark.slow  # the whole training notebook
@pytest.mark.skipif(
    not shutil.which("espeak-ng"), reason="espeak-ng, which synthesises the speech, is not installed"
)
def test_audio_trains_and_resumes(tmp_path):
    settings = dict(out=str(tmp_path / "out"), clips=2, batch=2, frames=20)
    run("train_audio.ipynb", tmp_path, steps=2, **settings)
    run("train_audio.ipynb", tmp_path, steps=3, **settings)
    assert len(torch.load(tmp_path / "out" / "checkpoint.pt", weights_only=True)["snrs"]) == 3
    codec = EmbeddedAudio(weights=tmp_path / "out" / "audio.safetensors")
    assert codec.encode(torch.rand(1, 1, 960) - 0.5).codes.shape == (1, 8, 3)


@pytest.mark.slow  # a kernel of its own
def test_audio_is_not_trained_without_espeak(tmp_path, monkeypatch):
    folders = [p for p in __import__("os").environ["PATH"].split(":") if not (Path(p) / "espeak-ng").exists()]
    monkeypatch.setenv("PATH", ":".join(folders))
    with pytest.raises(papermill.PapermillExecutionError, match=r"espeak-ng is not installed"):
        run("train_audio.ipynb", tmp_path, out=str(tmp_path / "out"))


@pytest.mark.parametrize("name", ["image", "audio"])
def test_shipped_weights_are_small_and_say_how_they_were_made(name):
    import uti

    path = Path(uti.__file__).parent / "codecs" / "weights" / f"{name}.safetensors"
    assert path.stat().st_size <= 8_000_000
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    assert (
        int(metadata["steps"]) > 5000 and "synthesised" in metadata["trained_on"]
    ) or "procedural" in metadata["trained_on"]


@pytest.mark.parametrize("codec", [EmbeddedImage, EmbeddedAudio])
@pytest.mark.parametrize("content", [b"", b"not safetensors", None])
def test_wrong_weights_are_refused_in_one_sentence(codec, content, tmp_path):
    other = {EmbeddedImage: "audio", EmbeddedAudio: "image"}[codec]
    import uti

    path = tmp_path / "w.safetensors"
    path.write_bytes(
        content
        if content is not None
        else (Path(uti.__file__).parent / "codecs" / "weights" / f"{other}.safetensors").read_bytes()
    )
    with pytest.raises(ValueError, match=r"w.safetensors: not") as caught:
        codec(weights=path)
    assert "\n" not in str(caught.value)
