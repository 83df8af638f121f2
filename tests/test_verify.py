"""What a stranger finds out about a published record: every change is found, and named."""

import json
import shutil
from contextlib import contextmanager

import pytest
import yaml
from safetensors.torch import load_file, save_file

from uti.audit.card import model_card
from uti.audit.plan import AuditPlan
from uti.audit.record import AuditError
from uti.audit.report_json import read_record
from uti.audit.run import run_audit
from uti.audit.verify import compare_records, verify
from uti.codecs.base import LoadedWeights
from uti.codecs.embedded.audio import WEIGHTS
from uti.config import parse_config
from uti.files import digest
from uti.modalities.audio import write_wav
from uti.modalities.probes import noise

pytestmark = pytest.mark.run


@pytest.fixture(scope="module")
def assets(tmp_path_factory):
    "Audio at its codec's rate, which is written as it was."
    folder = tmp_path_factory.mktemp("assets")
    write_wav(folder / "hiss.wav", noise(12_000, 3, held=7).float()[None] * 0.5, 24_000)
    return folder


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return shutil.copyfile(WEIGHTS, tmp_path_factory.mktemp("weights") / "audio.safetensors")


@pytest.fixture(scope="module")
def audited(tmp_path_factory, assets, weights):
    "A record of a codec whose weights are a file of ours."
    folder = tmp_path_factory.mktemp("audited") / "out"
    audio = {"codec": "embedded-audio", "options": {"n_codebooks": 2, "weights": str(weights)}}
    run_audit(AuditPlan(parse_config({"audio": audio}), folder, assets))
    return folder


@pytest.fixture
def copied(audited, tmp_path):
    return shutil.copytree(audited, tmp_path / "copied")


def test_a_record_of_another_folder_is_verified_in_every_part(copied, assets):
    found = verify(copied, assets)
    assert found.exit_code == 0, [str(f) for f in found.findings if f.verdict in ("differs", "unknown")]
    assert found.verified == ["files", "ids", "record", "metrics", "codecs", "re-encoding"]
    assert {f.verdict for f in found.findings if f.kind != "metrics"} == {"equal"}


@contextmanager
def edited(folder):
    "Give what report.json says, and write it as it was left."
    path = folder / "report.json"
    data = json.loads(path.read_text())
    yield data
    path.write_text(json.dumps(data))


def flip(path, place=-1):
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)


def spoil_artifact(folder):
    flip(folder / "recon" / "hiss.wav.wav", -3000)


def spoil_original(folder):
    flip(folder / "original" / "hiss.wav.wav", -3000)


def spoil_token(folder):
    flip(folder / "tokens.safetensors", -8)


def spoil_metric(folder):
    with edited(folder) as data:
        data["items"][-1]["metrics"]["audio_snr_db"]["value"] += 2


def spoil_spread(folder):
    with edited(folder) as data:
        data["metrics_v2_spread"]["audio_snr_db"]["n"] += 1


def spoil_file(folder):
    with edited(folder) as data:
        data["files"]["recon.wav"] = data["files"]["tokens.safetensors"]


def spoil_verdict(folder):
    with edited(folder) as data:
        next(c for c in data["checks"] if c["gates"])["passed"] = False


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (spoil_artifact, ["files, recon/hiss.wav.wav"]),
        (spoil_original, ["files, original/hiss.wav.wav"]),
        (spoil_token, ["files, tokens.safetensors", "ids, audio/hiss.wav", "re-encoding, ids of hiss.wav"]),
        (
            spoil_metric,
            ["files, report.json", "record, mean of audio_snr_db", "re-encoding, audio_snr_db of hiss.wav"],
        ),
        (spoil_verdict, ["files, report.json", "record, verdict"]),
        (spoil_spread, ["files, report.json", "record, items in the mean of audio_snr_db"]),
        (spoil_file, ["files, report.json", "files, recon.wav"]),
    ],
)
def test_each_change_is_found_and_named(copied, assets, spoil, told):
    spoil(copied)
    found = verify(copied, assets)
    said = [str(f) for f in found.with_verdict("differs")]
    assert found.exit_code == 1 and all(any(s.startswith(t) for s in said) for t in told), said


def test_other_weights_are_found_and_named(copied, assets, weights):
    whole = weights.read_bytes()
    changed = load_file(weights)
    changed[min(changed)].view(-1)[0] += 1
    try:
        save_file(changed, weights)
        said = [str(f) for f in verify(copied, assets).with_verdict("differs")]
    finally:
        weights.write_bytes(whole)
    assert any(s.startswith("codecs, audio") and "weights" in s for s in said), said
    assert any(s.startswith("codecs, weights of audio") for s in said), said
    assert any(s.startswith("codecs, audio.safetensors of audio") for s in said), said


def test_a_record_names_every_file_and_each_mean_its_items(audited):
    record = read_record(audited / "report.json")
    written = {p.relative_to(audited).as_posix() for p in audited.rglob("*") if p.is_file()}
    apart = {"report.json", "report.intoto.json", "uti_manifest.json"}
    assert record.files.keys() == written - apart
    assert record.files["recon.wav"] == digest(audited / "recon.wav")
    assert record.weight_files == {"audio": {"audio.safetensors": digest(WEIGHTS)}}
    assert record.metrics["audio_snr_db"].n == 1 and record.metrics["audio_snr_db"].deviation is None
    assert all(facts.version >= 1 for facts in record.metric_facts.values())


def test_a_weight_file_keeps_its_name_where_it_is_a_link(tmp_path):
    (tmp_path / "blob").write_bytes(b"w")
    (tmp_path / "model.safetensors").symlink_to(tmp_path / "blob")
    hashes = LoadedWeights({}, [tmp_path / "model.safetensors"]).file_hashes
    assert hashes == {"model.safetensors": digest(tmp_path / "blob")}


def test_a_file_that_only_the_record_names_is_not_opened(copied, assets):
    with edited(copied) as data:
        data["files"]["../secret"] = "0" * 64
    (copied.parent / "secret").write_text("s")
    (found,) = (f for f in verify(copied, assets).findings if f.of == "../secret")
    assert found.verdict == "unknown" and found.here is None


def test_another_version_of_a_metric_is_not_compared(copied, assets):
    with edited(copied) as data:
        data["metric_facts"]["audio_snr_db"]["version"] = 0
    found = verify(copied, assets)
    assert "version 0 recorded, version 1 here" in {f.detail for f in found.with_verdict("unknown")}


def test_a_model_card_has_the_numbers_of_the_record_and_none_of_one_that_failed(audited, copied, uti):
    record = read_record(audited / "report.json")
    said = uti("card", audited, "--url", "https://example.org/")
    (entry,) = yaml.safe_load(said.stdout)["model-index"]
    (result,) = entry["results"]
    means = {name: mean.value for name, mean in record.metrics.items() if mean.value is not None}
    assert entry["name"] == "embedded-audio" and result["source"]["url"] == "https://example.org/"
    assert {m["type"]: m["value"] for m in result["metrics"]} == means
    with edited(copied) as data:
        data["pass"] = False
    with pytest.raises(AuditError, match="failed"):
        model_card(read_record(copied / "report.json"))


def test_what_cannot_be_asked_is_unknown_and_exit_2(copied, assets, weights):
    moved = weights.rename(weights.with_suffix(".moved"))
    try:
        found = verify(copied, assets)
    finally:
        moved.rename(weights)
    assert found.exit_code == 2 and "files" in found.verified and "codecs" not in found.verified
    (unknown,) = found.with_verdict("unknown")
    assert "cannot be loaded here" in unknown.detail and "audio.safetensors" in unknown.detail


def test_without_the_inputs_the_originals_are_encoded(copied):
    found = verify(copied)
    (ids,) = [f for f in found.findings if f.of == "ids of hiss.wav"]
    assert found.exit_code == 0 and ids.verdict == "equal"


def test_two_records_are_compared_id_by_id(copied, audited):
    same = compare_records(copied, audited)
    assert same.exit_code == 0 and not same.environment
    tokens = load_file(copied / "tokens.safetensors")
    tokens["audio/hiss.wav"][5] += 1  # codebook 1 at position 2
    save_file(tokens, copied / "tokens.safetensors")
    with edited(copied) as data:
        data["items"][-1]["token_sha256"] = "0" * 64
    (differs,) = compare_records(copied, audited).with_verdict("differs")
    assert "first in codebook 1 at position 2" in str(differs) and differs.of == "audio/hiss.wav"


def test_the_command_says_it_and_writes_a_statement(copied, assets, uti_here, tmp_path):
    right = uti_here("verify", copied, "--assets", assets, "--statement", "svr.json")
    assert right.returncode == 0 and "VERIFIED" in right.stdout
    said = json.loads((tmp_path / "svr.json").read_text())
    assert said["predicateType"].endswith("svr/v0.1") and "UTI_RE_ENCODING" in said["predicate"]["properties"]
    assert {s["name"] for s in said["subject"]} >= {"report.json", "tokens.safetensors"}
    spoil_token(copied)
    wrong = uti_here("verify", copied, "--assets", assets, "--statement", "svr.json")
    said = json.loads((tmp_path / "svr.json").read_text())["predicate"]["properties"]
    assert wrong.returncode == 1 and "✗ ids, audio/hiss.wav" in wrong.stdout and "UTI_IDS" not in said
    both = uti_here("verify", copied, "--against", copied, "--statement", "s.json")
    assert (
        both.returncode == 2 and "leave --against out" in both.stderr and not (tmp_path / "s.json").exists()
    )
    absent = uti_here("verify", tmp_path / "nothing")
    assert absent.returncode == 2 and absent.stderr.count("\n") == 1 and "cannot be read" in absent.stderr


def test_a_record_cannot_point_beyond_its_folder(copied, assets, tmp_path):
    outside = shutil.copyfile(copied / "original" / "hiss.wav.wav", tmp_path / "outside.wav")
    with edited(copied) as data:
        data["items"][-1]["original"] = str(outside)
        data["items"][-1]["meta"] = {}
    said = [str(f) for f in verify(copied, assets).with_verdict("differs")]
    assert any(s.startswith("metrics, hiss.wav") and "is no file of this record" in s for s in said), said


def test_an_audit_leaves_its_result_as_a_statement(audited):
    said = json.loads((audited / "report.intoto.json").read_text())
    assert said["predicateType"] == "https://in-toto.io/attestation/test-result/v0.1"
    assert said["predicate"]["result"] == "PASSED" and not said["predicate"]["failedTests"]
    assert "stability/audio" in said["predicate"]["warnedTests"]
    assert {s["name"] for s in said["subject"]} >= {"report.json", "tokens.safetensors", "uti.yaml"}
    assert [c["name"] for c in said["predicate"]["configuration"]] == ["uti.yaml"]


def test_a_folder_without_a_record_is_refused(tmp_path):
    with pytest.raises(AuditError, match="cannot be read"):
        verify(tmp_path)
