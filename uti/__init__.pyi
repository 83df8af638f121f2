from .audit.report_json import read_record as read_record
from .audit.plan import AuditPlan as AuditPlan
from .audit.run import run_audit as run_audit
from .audit.samples import examples as examples
from .codecs.base import Codec as Codec
from .codecs.base import register_codec as register_codec
from .codecs.checkpoints import load_codec as load_codec
from .errors import UTIError as UTIError
from .modalities.audio import read_audio as read_audio
from .modalities.base import Audio as Audio
from .modalities.base import Image as Image
from .modalities.image import load_image as load_image
from .publish import report as report
from .roundtrip import roundtrip as roundtrip
from .space import TokenSpace as TokenSpace
from .testing import check_codec as check_codec
from .tokens.tokenizer import Tokens as Tokens
from .tokens.tokenizer import UnifiedTokenizer as UnifiedTokenizer

__version__: str
__all__ = [
    "Audio",
    "AuditPlan",
    "Codec",
    "Image",
    "TokenSpace",
    "Tokens",
    "UTIError",
    "UnifiedTokenizer",
    "check_codec",
    "examples",
    "load_codec",
    "load_image",
    "read_audio",
    "read_record",
    "register_codec",
    "report",
    "roundtrip",
    "run_audit",
]
