"""Several codecs on one page: rates that are right, distortion that can be compared, work that is not done
twice.
"""

import base64
import json
import re
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import jsonschema
import pytest
import torch
from checkpoints import save
from safetensors.torch import load_file, save_file
from small_codecs import Held
from small_unclip import save_small_unclip

from uti.audit.record import AuditError
from uti.checks.encoding import threads
from uti.codecs import base
from uti.codecs.base import LoadedWeights
from uti.comparison.record import Asset, Comparison
from uti.comparison.references import Point, Reference, audio_coders, image_coders, through_opus
from uti.comparison.run import (
    check_name,
    compare,
    differences_of,
    load_configs,
    made_fair,
    names_of,
    prepare_compare,
    read_comparison,
)
from uti.comparison.scores import scores_of
from uti.config import DEFAULT_CONFIG, ConfigError, parse_config
from uti.metrics.audio import snr_db
from uti.metrics.base import Measurement
from uti.metrics.registry import METRICS
from uti.modalities.audio import load_audio, write_wav
from uti.modalities.base import MediaError
from uti.modalities.image import load_image
from uti.pages import compare as sections
from uti.pages.compare import Page
from uti.publish import REPORTS, report_comparison


@pytest.fixture(autouse=True)
def one_thread():
    with threads(1):
        yield


@pytest.fixture(scope="module")
def work(tmp_path_factory, small):
    "A folder with two configs of one name, and the small assets."
    folder = tmp_path_factory.mktemp("work")
    for name, n in (("eight", 8), ("two", 2)):
        (folder / name).mkdir()
        (folder / name / "uti.yaml").write_text(
            f"text: {{codec: embedded-text}}\nimage: {{codec: embedded-image}}\naudio: {{codec: "
            f"embedded-audio, options: {{n_codebooks: {n}}}}}\n"
        )
    shutil.copytree(small, folder / "small")
    return folder


@pytest.fixture(scope="module")
def published(work, uti_in):
    "The folder of the report that the command makes of them."
    run = uti_in(
        work, "compare", "eight/uti.yaml", "two/uti.yaml", "--smoke-assets", "small", "--name", "both"
    )
    assert run.returncode == 0, run.stdout + run.stderr
    assert "[0/16] eight-uti: encoding" in run.stderr
    assert "✓ two-uti: 8.88 bits/byte, 0.25 bits/pixel, 1.5 kbps" in run.stdout
    return work / "reports" / "both"


def test_the_page_says_who_passed_at_what_rate(published):
    page = (published / "index.html").read_text()
    for said in (
        "Passed: all 2 configurations",
        "eight-uti",
        "two-uti",
        "without entropy coding",
        "256×256",
        "24 kHz",
        "JPEG",
        "µ-law",
    ):
        assert said in page
    assert (
        page.count("<audio") == 3 and page.count("data:image/png") >= 2 + 3 + 3
    )  # figures, images, spectrograms
    assert "comparison of eight-uti, two-uti" in (published.parent / "index.html").read_text()


FORMS = {"image": "images at 256×256", "audio": "audio in mono at 24 kHz", "text": "bits/byte"}


@pytest.mark.run
@pytest.mark.parametrize(
    "modality", [pytest.param(of, marks=pytest.mark.slow) for of in ("text", "image", "audio")]
)
def test_a_comparison_may_be_of_one_modality(uti_here, tmp_path, work, modality):
    run = uti_here("compare", f"embedded-{modality}", "--smoke-assets", work / "small")
    assert run.returncode == 0, run.stderr
    page = (tmp_path / "reports" / "compare" / "index.html").read_text()
    assert "Passed: the configuration keeps" in page
    assert [form for form in FORMS.values() if form in page] == [FORMS[modality]]


@pytest.fixture(scope="module")
def mixed(work, uti_in):
    """The folder of the report of the embedded codecs, an EnCodec with random weights, and a codec of small
    images; and what the command printed.
    """
    for family in ("encodec_48khz", "VQModel"):
        save(family, work)
    shutil.copy(DEFAULT_CONFIG, work / "embedded.yaml")
    (work / "VQModel.yaml").write_text(
        "image: {codec: ./VQModel, options: {image_size: 32}}\n"
    )  # what its config says, the library's default, counts as unstated
    run = uti_in(
        work,
        "compare",
        "embedded.yaml",
        "encodec_48khz",
        "VQModel.yaml",
        "--smoke-assets",
        "small",
        "--name",
        "mixed",
    )
    assert run.returncode == 0, run.stdout + run.stderr
    return work / "reports" / "mixed", run.stdout


@pytest.mark.slow  # models of others, whose common form is asked of small codecs below
def test_checkpoints_stand_beside_the_embedded_codecs(mixed):
    folder, printed = mixed
    comparison, page = read_comparison(folder / "comparison.json"), (folder / "index.html").read_text()
    assert [e.name for e in comparison.entries] == [
        "embedded",
        "encodec_48khz",
        "VQModel",
    ] and comparison.passed
    assert list(comparison.results("audio")) == ["embedded", "encodec_48khz"] and list(
        comparison.results("image")
    ) == ["embedded", "VQModel"]
    assert (
        comparison.common_form.sample_rate == 24_000
        and "48 kHz stereo" in page
        and "audio in mono at 24 kHz" in page
    )
    assert all(f"✓ {name}: " in printed for name in ("embedded", "encodec_48khz", "VQModel"))
    assert "0.25 bits/pixel, 6 kbps" in printed
    assert all(
        item.common["audio_snr_db"].value is not None
        for r in comparison.results("audio").values()
        for item in r.items
    )


@pytest.mark.slow  # models of others, whose common form is asked of small codecs below
def test_the_page_names_both_rates_of_a_picture(mixed):
    folder, _ = mixed
    embedded, small = read_comparison(folder / "comparison.json").results("image").values()
    assert (embedded.rate.own, embedded.rate.axis) == (0.25, 16) and small.rate.own == small.rate.axis == 0.5
    page = (folder / "index.html").read_text()
    assert ">bits/pixel, own size</th>" in page and "bits/pixel of 32×32</th>" in page
    assert "1,024 tokens, 0.25 bits/pixel" in page and "16 bits/pixel" not in page


@pytest.mark.slow  # models of others, whose common form is asked of small codecs below
def test_each_codec_stands_beside_what_it_got(mixed):
    folder, _ = mixed
    results = read_comparison(folder / "comparison.json").results("image")
    page = (folder / "index.html").read_text()
    for name, side in {"embedded": 256, "VQModel": 32}.items():
        original = folder / results[name].items[0].original
        assert load_image(original).size == (side, side)
        assert base64.b64encode(original.read_bytes()).decode() in page and re.search(
            rf"as the codec got it<br/?>{side}×{side}<", page
        )


def test_the_record_fits_its_schema_and_has_the_rates(published):
    data = json.loads((published / "comparison.json").read_text())
    jsonschema.validate(data, Comparison.model_json_schema())
    assert data["pass"] is True and [e["name"] for e in data["entries"]] == ["eight-uti", "two-uti"]
    eight, two = (e["results"] for e in data["entries"])
    assert eight["image"]["rate"]["bits_per_pixel"] == eight["image"]["rate"]["common_bits_per_pixel"] == 0.25
    assert eight["image"]["rate"]["tokens_per_item"] == 1024 and eight["image"]["bits_per_token"] == [16.0]
    assert [r["audio"]["rate"]["kbps"] for r in (eight, two)] == [6, 1.5]
    assert [r["audio"]["rate"]["tokens_per_second"] for r in (eight, two)] == [600, 150]
    assert eight["text"]["lossless"] is True and eight["text"]["rate"]["bits_per_byte"] == pytest.approx(
        12 * eight["text"]["rate"]["tokens_per_byte"]
    )
    files = [published / a["original"] for a in data["assets"] if a["original"]] + [
        published / i["recon"] for r in (eight, two) for m in ("image", "audio") for i in r[m]["items"]
    ]
    assert len(files) == 2 + 4 and all(f.is_file() for f in files)


def test_scores_are_lines_that_versa_reads(published, uti_here, tmp_path):
    run = uti_here("scores", published)
    assert run.returncode == 0, run.stderr
    lines = [json.loads(line) for line in run.stdout.splitlines()]
    record = read_comparison(published / "comparison.json")
    assert {line["model"] for line in lines} >= {"eight-uti", "two-uti", "Opus, 6 kbps"}
    (eight,) = [line for line in lines if line["model"] == "eight-uti"]
    common = record.results("audio")["eight-uti"].items[0].common
    assert eight["key"] == "speech.wav" and eight["audio_snr_db"] == common["audio_snr_db"].value
    # what VERSA averages: numbers whose names have no underscore in front
    assert all(
        isinstance(value, (int, float, type(None))) or name in ("key", "model") or name.startswith("_")
        for line in lines
        for name, value in line.items()
    )
    assert eight["_metadata"]["sources"]["audio_snr_db"] == "uti"
    run = uti_here("scores", tmp_path)
    assert run.returncode == 2 and "report.json: cannot be read" in run.stderr


def test_scores_have_the_names_of_versa_where_they_mean_the_same_and_null_for_no_number(two_of_audio):
    (line,) = scores_of(two_of_audio)
    assert (line["pesq"], line["dns_overall"], line["visqol"]) == (1.5, 2.5, None)
    assert "audio_pesq_wb" not in line and line["audio_dwer"] == 0.5
    assert line["_metadata"]["reasons"] == {"visqol": "too short"}
    assert line["_metadata"]["sources"]["pesq"].startswith("pesq")


@pytest.fixture
def two_of_audio(published):
    "A comparison of a codec with scores as they are heard, and another that did not pass."
    whole = read_comparison(published / "comparison.json")
    heard = {"audio_pesq_wb": 1.5, "audio_dnsmos_ovrl": 2.5, "audio_dwer": 0.5}
    common = {name: Measurement(value=v) for name, v in heard.items()}
    common["audio_visqol"] = Measurement(value=None, reason="too short")
    entry = whole.entries[0]
    result = entry.results["audio"]
    items = [item.model_copy(update={"common": common}) for item in result.items]
    entry = entry.model_copy(update={"results": {"audio": result.model_copy(update={"items": items})}})
    found = {
        "entries": [entry, entry.model_copy(update={"name": "failed", "passed": False})],
        "references": [],
        "metric_facts": {name: METRICS[name].facts for name in common},
    }
    return whole.model_copy(update=found)


def test_more_bits_are_better(published):
    comparison = read_comparison(published / "comparison.json")
    eight, two = comparison.results("audio").values()
    assert eight.common["audio_snr_db"].value > two.common["audio_snr_db"].value + 2
    assert eight.common["audio_log_mel_l1"].value < two.common["audio_log_mel_l1"].value
    assert eight.metrics["audio_snr_db"].value == pytest.approx(
        eight.common["audio_snr_db"].value, abs=0.01
    )  # its own form is the common one
    better = {"image": ("image_psnr", "image_ssim"), "audio": ("audio_snr_db",)}
    assert all(e.results["image"].speed.encode_ids_per_second > 0 for e in comparison.entries)
    assert [c.name for c in comparison.references] == ["JPEG", "WebP", "AVIF", "JPEG XL", "µ-law", "Opus"]
    for curve in comparison.references:
        rates = [p.rate for p in curve.points]
        assert len(rates) > 3 and rates == sorted(set(rates))
        for metric in better[curve.modality]:
            values = [p.metrics[metric].value for p in curve.points]
            assert values == sorted(values), (curve.name, metric)


def items_of(entry):
    return {modality: result.items for modality, result in entry.results.items()}


def test_what_is_done_is_not_done_again(published, work):
    times = {p: p.stat().st_mtime_ns for p in published.glob("audits/*/report.json")}
    configs = load_configs([work / "eight" / "uti.yaml", work / "two" / "uti.yaml"])
    lines = []
    before = read_comparison(published / "comparison.json")
    again = compare(
        configs, published, assets=work / "small", progress=lambda step, steps, what: lines.append(what)
    )
    assert len(times) == 2 and times == {
        p: p.stat().st_mtime_ns for p in published.glob("audits/*/report.json")
    }
    assert lines[:2] == ["eight-uti: audited before, kept", "two-uti: audited before, kept"] and [
        items_of(e) for e in again.entries
    ] == [items_of(e) for e in before.entries]


def test_without_imagecodecs_there_is_a_sentence_in_place_of_jpeg_xl(monkeypatch):
    there, absent = image_coders()
    assert [coder.name for coder in there] == ["JPEG", "WebP", "AVIF", "JPEG XL"] and not absent
    monkeypatch.setitem(sys.modules, "imagecodecs", None)
    there, absent = image_coders()
    assert [coder.name for coder in there] == ["JPEG", "WebP", "AVIF"]
    assert absent == ["JPEG XL is left out: imagecodecs is not installed; install uti[references]."]


def test_a_reference_that_a_library_was_built_without_is_left_out(monkeypatch):
    monkeypatch.setattr("PIL.features.check", lambda feature: False)
    monkeypatch.setattr("av.codecs_available", frozenset())
    assert image_coders()[1] == ["AVIF is left out: the Pillow that was installed cannot write it."]
    there, absent = audio_coders(24_000)
    assert [coder.name for coder in there] == ["µ-law"]
    assert absent == ["Opus is left out: the PyAV that was installed has no libopus."]


def test_opus_is_aligned(work):
    wave, rate = load_audio(work / "small" / "speech.wav")
    back, kbps = through_opus(wave, 48, rate)
    snrs = [snr_db(wave, back.roll(delay, 1)) for delay in (-1, 0, 1)]
    assert max(snrs) == snrs[1] > 8 and kbps == pytest.approx(48)


@pytest.mark.parametrize("rate, n", [(8_000, 1), (16_000, 3_001), (44_100, 2_000)])
def test_opus_takes_any_rate_and_length(rate, n):
    back, kbps = through_opus(torch.zeros(1, n), 6, rate)
    assert back.shape == (1, n) and back.isfinite().all() and kbps == pytest.approx(6)


def test_the_bytes_of_an_image_do_not_depend_on_threads():
    image = torch.rand(3, 256, 256, generator=torch.Generator().manual_seed(0))
    for coder in image_coders()[0]:
        setting = list(coder.settings.values())[2]
        with threads(4):
            four = coder.through(image, setting)
        assert coder.through(image, setting)[1] == four[1], coder.name


@pytest.fixture
def page_of(published):
    "`page_of(entries, references)`: a page of them."
    whole = read_comparison(published / "comparison.json")

    def page(entries, references=()):
        entries, curves = made_fair(entries, references)
        assets = [
            Asset(name=item.name, modality="image", source_sha256="0", original=None)
            for item in entries[0].results["image"].items
        ]
        found = {
            "entries": entries,
            "references": curves,
            "assets": assets,
            "differences": differences_of(entries, curves),
        }
        return Page(whole.model_copy(update=found), published)

    return page


def test_the_table_has_intervals_and_references_of_the_rate_and_who_failed_stands_last(
    two_of_images, page_of
):
    old, new, curve = two_of_images
    failed = old.model_copy(update={"passed": False})
    said = str(sections.summary(page_of([failed, new], [curve])))
    assert said.index(">new<") < said.index("JPEG, quality 5") < said.index("not ranked")
    assert 'class="sortable"' in said and said.count('<tr class="unranked">') == 1
    mean = made_fair([new], [])[0][0].results["image"].common["image_psnr"]
    assert "23.00<span" in said and f"[{mean.low:.2f}, {mean.high:.2f}]" in said
    assert "quality 90" not in said  # at twelve times the rate


def test_where_nothing_was_decoded_no_references_stand_beside_it(two_of_images, page_of):
    old, _, curve = two_of_images
    items = [item.model_copy(update={"common": {}}) for item in old.results["image"].items]
    found = {"image": old.results["image"].model_copy(update={"items": items})}
    page = page_of([old.model_copy(update={"results": found})], [curve])
    assert "JPEG" not in sections.summary(page) and ">old<" in sections.summary(page)
    assert "<table" not in sections.differences(page)


def test_differences_say_who_is_better_or_that_nobody_is(two_of_images, page_of):
    old, new, _ = two_of_images
    same = old.model_copy(update={"name": "same"})
    said = str(sections.differences(page_of([new, old, same])))
    assert '<span class="ok nowrap">+0.50</span><span class="soft nowrap note">[+0.50, +0.50]</span>' in said
    assert "no difference" in said and "+0.00 [+0.00, +0.00]" in said
    few = [
        e.model_copy(update={"results": {"image": r.model_copy(update={"items": r.items[:4]})}})
        for e in (new, old)
        for r in [e.results["image"]]
    ]
    said = str(sections.differences(page_of(few)))
    assert ">+0.50<" in said and "no difference" not in said and "[" not in said


def test_what_the_codecs_differ_most_in_comes_first(two_of_images, page_of):
    old, new, _ = two_of_images
    items = new.results["image"].items
    items = [
        i.model_copy(update={"common": {"image_psnr": Measurement(value=40.0)}}) if i.name == "3.png" else i
        for i in items
    ]
    new = new.model_copy(
        update={"results": {"image": new.results["image"].model_copy(update={"items": items})}}
    )
    assert [a.name for a in page_of([old, new]).assets("image")][:2] == ["3.png", "0.png"]


@pytest.mark.slow  # a browser
def test_a_heading_sorts_its_table_and_who_failed_stays_last(two_of_images, page_of, tmp_path, browsed):
    old, new, curve = two_of_images
    failed = new.model_copy(update={"name": "failed", "passed": False})
    table = sections.summary(page_of([old, new, failed], [curve]))
    script = (REPORTS / "template" / "sort.js").read_text()
    press = "document.querySelectorAll('th button')[2].click();"
    for presses, order in ((1, ["JPEG", "new", "old", "failed"]), (2, ["old", "new", "JPEG", "failed"])):
        (tmp_path / "page.html").write_text(
            f"<!DOCTYPE html><meta charset=utf-8><script>{script}</script>{table}"
            f"<script>document.addEventListener('DOMContentLoaded', () => {{ {press * presses} }});</script>"
        )
        seen = browsed(tmp_path / "page.html")
        rows = re.findall(r"<tr[^>]*><td[^>]*>(?:<span[^>]*>)?(\w+)", seen)
        assert rows == order and 'aria-sort="' in seen


def test_one_bad_config_stops_all_before_anything_is_written(uti_here, tmp_path, work):
    (tmp_path / "bad.yaml").write_text("image: {codec: embedded-imag}")
    result = uti_here("compare", work / "two" / "uti.yaml", "bad.yaml", "--smoke-assets", work / "small")
    assert (
        result.returncode == 2
        and "bad: no codec is named 'embedded-imag'" in result.stderr
        and result.stderr.count("\n") == 1
    )
    assert not (tmp_path / "reports").exists()
    (tmp_path / "bad.yaml").write_text("imag: {codec: embedded-image}")
    for bad, told in (
        (tmp_path / "bad.yaml", "unknown key 'imag'; did you mean 'image'?"),
        (tmp_path / "absent.yaml", "absent.yaml: cannot be read"),
    ):
        with pytest.raises(ConfigError, match=re.escape(told)):
            report_comparison([work / "two" / "uti.yaml", bad], tmp_path / "reports" / "x")
    with pytest.raises(MediaError, match="no such folder"):
        report_comparison([work / "two" / "uti.yaml"], tmp_path / "reports" / "x", assets=tmp_path / "absent")
    assert not (tmp_path / "reports").exists()


@pytest.mark.run
def test_different_forms_are_compared_in_a_common_one(work, tmp_path, monkeypatch):
    monkeypatch.setitem(base._registered, "held", Held)
    wide = parse_config({"audio": {"codec": "embedded-audio"}})
    comparison = compare(
        {"held": parse_config({"audio": {"codec": "held"}, "clip_seconds": 0.5}), "wide": wide},
        tmp_path / "out",
        assets=work / "small",
    )
    assert comparison.common_form.sample_rate == 8000 and comparison.common_form.clip_seconds == 0.5
    original, rate = load_audio(tmp_path / "out" / comparison.assets[-1].original)
    assert original.shape == (1, 4000) and rate == 8000
    held, embedded = comparison.results("audio").values()
    assert held.rate.kbps == 32 and held.rate.tokens_per_second == 4000 and embedded.rate.kbps == 6
    assert embedded.common["audio_snr_db"].value != pytest.approx(
        embedded.metrics["audio_snr_db"].value, abs=0.01
    )
    assert held.common["audio_snr_db"].value > 3
    assert max(p.rate for c in comparison.references if c.name == "µ-law" for p in c.points) == 64  # 8 kHz
    assert comparison.passed and [e.passed for e in comparison.entries] == [True, True]


class Again(Exception):
    "An audit would be run."


@pytest.fixture
def keeps(monkeypatch):
    """`keeps(config, outdir, assets, decode_mode)`: whether `compare` keeps the audit that lies in `outdir`;
    runs none.
    """

    def asked(config, outdir, assets, decode_mode="deterministic"):
        def run(*arguments):
            raise Again

        with monkeypatch.context() as patch:
            patch.setattr("uti.comparison.run.run_audit", run)
            try:
                compare({"one": config}, outdir, assets=assets, decode_mode=decode_mode)
            except Again:
                return False
            return True

    return asked


@pytest.mark.run
def test_other_inputs_and_lost_files_are_audited_again(work, tmp_path, keeps):
    config = parse_config({"audio": {"codec": "embedded-audio", "options": {"n_codebooks": 1}}})
    mine, out = shutil.copytree(work / "small", tmp_path / "small"), tmp_path / "out"
    assert not keeps(config, out, mine)
    compare({"one": config}, out, assets=mine)
    assert keeps(config, out, mine)
    lost = next((out / "audits" / "one" / "recon").iterdir())
    found = lost.read_bytes()
    lost.unlink()
    assert not keeps(config, out, mine)
    lost.write_bytes(found)
    assert keeps(config, out, mine)
    wave, rate = load_audio(mine / "speech.wav")
    write_wav(mine / "speech.wav", wave.flip(1), rate)
    assert not keeps(config, out, mine)


@pytest.mark.run
def test_another_version_other_weights_and_other_libraries_are_audited_again(
    work, tmp_path, monkeypatch, keeps
):
    monkeypatch.setitem(base._registered, "held", Held)
    config = parse_config({"audio": {"codec": "held"}})
    assert not keeps(config, tmp_path, work / "small")
    compare({"one": config}, tmp_path, assets=work / "small")
    assert keeps(config, tmp_path, work / "small")
    init = Held.__init__

    def newer(self):
        init(self)
        self.spec = replace(self.spec, version="2")

    changes = {
        "__init__": newer,
        "loaded_weights": lambda self: LoadedWeights({"scale": torch.ones(3)}, []),
    }
    for name, changed in changes.items():
        with monkeypatch.context() as patch:
            patch.setattr(Held, name, changed)
            assert not keeps(config, tmp_path, work / "small"), name
    with monkeypatch.context() as patch:
        patch.setattr("uti.audit.environment.version", lambda name: "0")
        assert not keeps(config, tmp_path, work / "small")
    with monkeypatch.context() as patch:  # nothing is encoded to learn it
        patch.setattr(Held, "_encode", lambda *_: pytest.fail("encoded"))
        patch.setattr("uti.comparison.run._speed", lambda *_: None)
        assert keeps(config, tmp_path, work / "small")


def test_the_hash_of_weights_is_of_their_names_types_and_values():
    def digest(**tensors):
        codec = Held("audio")
        codec.loaded_weights = lambda: LoadedWeights(tensors, [])
        return codec.weights_sha256()

    one = torch.arange(4.0)
    assert Held("audio").weights_sha256() is None
    assert digest(a=one, b=one) == digest(b=one, a=one.clone())
    others = ({"a": one}, {"b": one}, {"a": one.half()}, {"a": one.view(2, 2)}, {"a": one + 1e-7})
    assert len({digest(**tensors) for tensors in others}) == 5


@pytest.mark.slow  # draws by diffusion five times
def test_pixels_drawn_by_other_weights_are_audited_again(work, tmp_path, keeps):
    parts = torch.load(Path(__file__).parent / "data" / "seed2_parity.pt", weights_only=True)
    seed2, diffusion = tmp_path / "seed2", tmp_path / "unclip"
    seed2.mkdir()
    torch.save(parts["vit_ckpt"], seed2 / "eva_vit_g.pth")
    torch.save(parts["quantizer_ckpt"], seed2 / "seed_quantizer.pt")
    (seed2 / "config.json").write_text(json.dumps(parts["config"]))
    save_small_unclip(diffusion, parts["config"]["image_features_dim"])

    def drawn(**more):
        return parse_config(
            {"image": {"codec": str(seed2), "options": {"diffusion": str(diffusion), "steps": 2, **more}}}
        )

    compare({"one": drawn()}, tmp_path / "out", assets=work / "small")
    assert keeps(drawn(), tmp_path / "out", work / "small")
    assert not keeps(drawn(steps=3), tmp_path / "out", work / "small") and not keeps(
        drawn(seed=1), tmp_path / "out", work / "small"
    )
    compare({"one": drawn()}, tmp_path / "fresh", assets=work / "small", decode_mode="diffusion")
    assert not keeps(drawn(), tmp_path / "fresh", work / "small", "diffusion")  # other noise, other pixels
    weights = next((diffusion / "vae").glob("*.safetensors"))
    state = load_file(weights)
    save_file(
        {name: -value if name.startswith("decoder.conv_out") else value for name, value in state.items()},
        weights,
        metadata={"format": "pt"},
    )
    assert not keeps(drawn(), tmp_path / "out", work / "small")


def test_pictures_of_another_shape_and_names_that_are_no_folders_are_refused(work, tmp_path, monkeypatch):
    monkeypatch.setitem(base._registered, "held", Held)
    square, flat = (
        parse_config({"image": {"codec": "embedded-image"}}),
        parse_config({"image": {"codec": "held", "options": {"modality": "image"}}}),
    )
    with pytest.raises(
        AuditError,
        match="square: its images of 256×256 show another part of an image than those of 16×32",
    ):
        prepare_compare({"square": square, "flat": flat}, tmp_path / "out", assets=work / "small")
    for name in ("", "..", "a/b"):
        with pytest.raises(AuditError, match="the name of a config becomes that of a folder"):
            prepare_compare({name: square}, tmp_path / "out", assets=work / "small")
    with pytest.raises(AuditError, match="at least one"):
        load_configs([])
    assert not (tmp_path / "out").exists()
    shutil.copytree(work / "small", tmp_path / "mine" / "original")
    with pytest.raises(AuditError, match="original: results go to this folder"):
        prepare_compare({"square": square}, tmp_path / "mine", assets=tmp_path / "mine" / "original")


def test_names_tell_versions_apart():
    assert names_of(["Qwen/Qwen3-0.6B", "Qwen/Qwen3-1.7B", "./m.v1", "./m.v2"]) == [
        "Qwen3-0.6B",
        "Qwen3-1.7B",
        "m.v1",
        "m.v2",
    ]
    assert names_of(["one.yaml", "two.yml", "tokenizer.json"]) == ["one", "two", "tokenizer"]
    assert names_of(["my.v2/uti.yaml", "my.v3/uti.yaml"]) == ["my.v2-uti", "my.v3-uti"]


@pytest.mark.parametrize("name", ["../../x", "..", ".", "", "a/b", "/x", "a\\b", "Index.html"])
def test_a_report_has_a_name_that_is_a_folder_in_another(name):
    with pytest.raises(AuditError, match="the name of the report becomes that of a folder"):
        check_name(name, "the report")
    check_name("a..b", "the report")


def test_a_reader_without_a_checkpoint_is_told_what_is_missing(uti_here, tmp_path):
    for name in ("seed2", "hf-audio"):
        result = uti_here("compare", name)
        assert (
            result.returncode == 2
            and (
                f"codec '{name}' reads a checkpoint: give a folder (./{name} for one of that name) or a hub "
                "id"
            )
            in result.stderr
        )
        assert "none given" not in result.stderr and result.stderr.count("\n") == 1
    assert not (tmp_path / "reports").exists()


def without(entry, item, metric="image_psnr"):
    "`entry`, with no number of `metric` for `item`."
    result = entry.results["image"]
    items = [
        one.model_copy(update={"common": one.common | {metric: Measurement(value=None, reason="silent")}})
        if one.name == item
        else one
        for one in result.items
    ]
    return entry.model_copy(update={"results": {"image": result.model_copy(update={"items": items})}})


@pytest.fixture(scope="module")
def two_of_images(published):
    "Two entries of six images, the second better by half a decibel at each, and a reference."
    entry = read_comparison(published / "comparison.json").entries[0]
    (item,) = entry.results["image"].items

    def of(name, more):
        items = [
            item.model_copy(
                update={"name": f"{i}.png", "common": {"image_psnr": Measurement(value=20.0 + i + more)}}
            )
            for i in range(6)
        ]
        results = {"image": entry.results["image"].model_copy(update={"items": items})}
        return entry.model_copy(update={"name": name, "results": results})

    points = {one.name: one.common for one in of("curve", 1).results["image"].items}
    point = Point(setting="quality 5", rate=0.26, metrics={}, items=points)
    far = point.model_copy(update={"setting": "quality 90", "rate": 3.0})
    return of("old", 0), of("new", 0.5), Reference(name="JPEG", modality="image", how="", points=[point, far])


def test_means_are_over_the_items_that_every_ranked_codec_has(two_of_images):
    old, new, curve = two_of_images
    (a, b), (fair,) = made_fair([old, without(new, "0.png")], [curve])
    means = [e.results["image"].common["image_psnr"] for e in (a, b)] + [fair.points[0].metrics["image_psnr"]]
    assert [m.n for m in means] == [5, 5, 5] and [m.value for m in means] == [23, 23.5, 24]
    assert {m.reason for m in means} == {
        "of 6 items, those that not every ranked codec has a number of left out"
    }


def test_a_codec_that_did_not_pass_takes_no_items_from_the_others_and_is_not_ranked(two_of_images):
    old, new, curve = two_of_images
    failed = without(new, "0.png").model_copy(update={"passed": False})
    (a, b), _ = made_fair([old, failed], [curve])
    assert [e.results["image"].common["image_psnr"].n for e in (a, b)] == [6, 5]
    assert {(d.first, d.second) for d in differences_of([a, b], [curve])} == {("old", "JPEG, quality 5")}


def test_without_an_item_in_common_there_is_no_mean(two_of_images):
    old, new, _ = two_of_images
    for i in range(3):
        new, old = without(new, f"{i}.png"), without(old, f"{i + 3}.png")
    (a, b), _ = made_fair([old, new], [])
    for entry in (a, b):
        mean = entry.results["image"].common["image_psnr"]
        assert mean.value is None and "no item of which every ranked codec has a number" in mean.reason


def test_a_codec_that_only_encodes_takes_no_items_from_the_others(two_of_images):
    old, new, _ = two_of_images
    for i in range(6):
        new = without(new, f"{i}.png")
    (a, b), _ = made_fair([old, new], [])
    assert a.results["image"].common["image_psnr"].n == 6
    mean = b.results["image"].common["image_psnr"]
    assert mean.value is None and mean.reason == "silent"


def test_codecs_differ_item_by_item_and_are_held_against_references_of_their_rate(two_of_images):
    old, new, curve = two_of_images
    found = {(d.first, d.second): d for d in differences_of([old, new], [curve])}
    assert set(found) == {("old", "new"), ("old", "JPEG, quality 5"), ("new", "JPEG, quality 5")}
    apart = found["old", "new"]
    assert (apart.mean.value, apart.mean.low, apart.mean.high, apart.mean.n) == (-0.5, -0.5, -0.5, 6)
    assert apart.better(METRICS["image_psnr"].facts) == "new" and apart.rates == (0.25, 0.25)
    (same,) = differences_of([old, old.model_copy(update={"name": "again"})], [])
    assert same.better(METRICS["image_psnr"].facts) == ""


def test_a_codec_that_breaks_has_failed_and_is_named(third_party, tmp_path, work, monkeypatch):
    monkeypatch.syspath_prepend(str(third_party))
    base._installed.cache_clear()
    (tmp_path / "stripes.yaml").write_text("image: {codec: stripes, options: {breaks: true}}\n")
    found = report_comparison([tmp_path / "stripes.yaml"], tmp_path / "reports" / "x", assets=work / "small")
    (entry,) = found.entries
    assert not found.passed and not entry.passed
    assert any("coffee.png: raised RuntimeError: the decoder fell over" in g for g in entry.failed_gates)
    assert "the decoder fell over" in (tmp_path / "reports" / "x" / "index.html").read_text()


def test_a_report_stays_in_the_folder_of_reports(uti_here, tmp_path):
    for command in (["compare", "embedded-image"], ["report"], ["smoke"]):
        result = uti_here(*command, "--name", "../../x")
        assert (
            result.returncode == 2
            and "the name of the report becomes that of a folder" in result.stderr
            and not list(tmp_path.iterdir())
        )
