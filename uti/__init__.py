"""UTI, the Unified Token Interface: text, images and audio in one shared space of discrete token ids, and the audit that proves the space can be trusted."""

__version__ = "0.1.0"

import lazy_loader

# A name costs nothing until it is touched; `__init__.pyi` says where each lives, to editors and to this line.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
