"""Reports from a folder of plausible runs: what a reader must find, and that nothing missing breaks them."""

import base64
import csv
import io
import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote
from xml.etree import ElementTree

import pytest
from support.report_runs import FEATURES, HASH, write_runs

from islr.evaluation.results import load_results, save_results
from islr.reporting import build_report, compose
from islr.reporting.document import figures
from islr.reporting.document.blocks import ReportTable
from islr.reporting.findings.probe_standings import probe_sets
from islr.reporting.findings.standings import palette, scored_sets
from islr.reporting.gather import scan

VOID = {"meta", "img", "br", "wbr", "polyline"}


@pytest.fixture(scope="module")
def page(runs: Path) -> str:
    return build_report([runs], runs.parent / "report.html").read_text()


class Page(HTMLParser):
    """Collects ids, links and the balance of tags."""

    def __init__(self) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.links: list[str] = []
        self.downloads: dict[str, str] = {}
        self.images: list[str] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        found = dict(attributes)
        if tag not in VOID:
            self.open.append(tag)
        if found.get("id"):
            self.ids.append(str(found["id"]))
        if tag == "a" and "download" in found:
            self.downloads[str(found["download"])] = unquote(str(found["href"]).partition(",")[2])
        elif tag == "a":
            self.links.append(str(found["href"]))
        if tag == "img":
            self.images.append(str(found["src"]))

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag


def parse(page: str) -> Page:
    parsed = Page()
    parsed.feed(page)
    assert parsed.open == []
    return parsed


def words(page: str) -> str:
    """What is read, without tags, styles and entities."""
    body = re.sub(r"<style>.*?</style>", "", page, flags=re.S)
    plain = re.sub(r"<[^>]+>", " ", body)
    return re.sub(r"\s+", " ", plain.replace("&#39;", "'").replace("&lt;", "<").replace("\N{NO-BREAK SPACE}", " "))


def test_the_page_is_one_file_that_needs_no_network(page: str) -> None:
    outside = re.sub(r'"data:[^"]*"', '""', page)
    assert "http://" not in outside
    assert "https://" not in outside
    assert "<script" not in outside
    assert "@import" not in outside
    assert "url(" not in outside
    assert "prefers-color-scheme: dark" in outside
    assert "@media print" in outside


def test_the_page_is_well_formed_and_its_links_lead_somewhere(page: str) -> None:
    parsed = parse(page)
    assert len(parsed.ids) == len(set(parsed.ids))
    assert {link.removeprefix("#") for link in parsed.links} <= set(parsed.ids)
    assert len(parsed.links) > 10
    for drawing in re.findall(r"<svg.*?</svg>", page, flags=re.S):
        ElementTree.fromstring(drawing)
    for image in parsed.images:
        assert base64.b64decode(image.partition(",")[2])[8:12] == b"WEBP"


def test_every_section_is_there(page: str) -> None:
    for anchor in (
        *(
            "lineage",
            "accuracy",
            "signers",
            "seen-signers",
            "calibration",
            "confusions",
            "probes",
            "layers",
            "gap",
            "curves",
            "samples",
        ),
        *("pictures", "data", "provenance", "environment", "unfinished", "words"),
    ):
        assert f'<section id="{anchor}">' in page, anchor


def test_the_headline_says_what_the_records_say(runs: Path, page: str) -> None:
    results = {row: load_results(runs / "finetune" / row / "result.json") for row in ("maskfeat", "random_init")}
    top1 = {row: next(r for r in records if r.metric == "top1") for row, records in results.items()}
    best, control = top1["maskfeat"], top1["random_init"]
    read = words(page)
    assert "Of 3 pre-trained models, maskfeat gained most: it recognises the sign in" in read
    assert f"recognises the sign in {best.value * 100:.1f} % of 240 test clips" in read
    assert "The highest top-1 overall" not in read
    assert f"The same encoder reaches {control.value * 100:.1f} % from random initialisation" in read
    assert f"pre-training adds {(best.value - control.value) * 100:.1f} points" in read
    assert "chance 8.3 %" in read
    assert (
        "a linear probe on the features of maskfeat, which gained most of 3 encoders by pre-training, reaches" in read
    )
    assert "2 of 11 runs failed or did not finish" in read


def test_the_headline_goes_to_the_gain_and_names_the_highest_score_beside_it(tmp_path: Path, runs: Path) -> None:
    shutil.copytree(runs, tmp_path / "runs")
    for row in ("posemae", "random_init_pose"):  # exact poses read nearly every sign, pre-trained or not
        path = tmp_path / "runs" / "finetune" / row / "predictions.csv"
        lines = list(csv.DictReader(path.open()))
        for line in lines:
            line |= {"rank1": line["class"], "true_rank": "1"}
            line |= {f"rank{k}": "" for k in range(2, 6)}
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, lines[0].keys())
            writer.writeheader()
            writer.writerows(lines)
        high = {"value": 1.0, "ci_low": 0.99, "ci_high": 1.0}
        records = load_results(path.with_name("result.json"))
        changed = [r.model_copy(update=high) if r.metric == "top1" and not r.group else r for r in records]
        save_results(path.with_name("result.json"), changed)
    read = words(build_report([tmp_path / "runs"], tmp_path / "report.html").read_text())
    assert "Of 3 pre-trained models, maskfeat gained most" in read
    assert "The highest top-1 overall is that of posemae (pose_transformer_tiny): 100.0 %" in read


def test_downloads_hold_the_numbers_unrounded(runs: Path, page: str) -> None:
    downloads = parse(page).downloads
    rows = list(csv.DictReader(io.StringIO(downloads["accuracy-synthetic-signs-test-split.csv"])))
    record = next(r for r in load_results(runs / "finetune" / "maskfeat" / "result.json") if r.metric == "top1")
    found = next(row for row in rows if row["Model"] == "maskfeat")
    assert float(found["Top-1, fraction"]) == record.value
    assert float(found["Top-1, fraction low"]) == record.ci_low
    gain = next(r for r in load_results(runs / "finetune" / "maskfeat" / "result.json") if r.metric == "dcg")
    assert (float(found["DCG, fraction"]), float(found["DCG, fraction high"])) == (gain.value, gain.ci_high)
    tables = re.findall(r"<table", page)
    assert len(downloads) == len(tables) + 2  # and records.csv, provenance.csv
    known = {row["provenance"]: row for row in csv.DictReader(io.StringIO(downloads["provenance.csv"]))}
    first = next(csv.DictReader(io.StringIO(downloads["records.csv"])))
    assert known[first["provenance"]]["split_fingerprint"] == HASH[::-1]


def test_full_hashes_stand_behind_short_ones(page: str) -> None:
    assert f'title="{HASH[::-1]}"' in page
    assert f">{HASH[::-1][:12]}<" in page


def test_each_model_is_compared_with_the_random_initialisation_of_its_encoder(runs: Path) -> None:
    gathered = scan([runs])
    (found,), notices = scored_sets(gathered, palette(gathered))
    assert notices == ()
    controls = {versus.row.label: versus.control.label for versus in found.versus if versus.control}
    assert controls == {
        "maskfeat": "random init · mvit_tiny",
        "supervised": "random init · mvit_tiny",
        "posemae": "random init · pose_transformer_tiny",
    }
    assert all(versus.mark == "▲" for versus in found.versus)
    assert {row.label for row in found.rows if row.random} == set(controls.values())


def test_rows_keep_their_colour_and_random_initialisation_is_grey(runs: Path) -> None:
    gathered = scan([runs])
    colours = palette(gathered)
    (found,), _ = scored_sets(gathered, colours)
    (probed,) = probe_sets(gathered, colours)
    assert len({row.series for row in found.rows}) == 5
    for row in found.rows:
        twin = next(other for other in probed.rows if other.label == row.label)
        assert twin.series == row.series
        assert row.series is not None
        assert (row.series < 0) == row.random
    assert figures.colour(-1).startswith("sx")


def test_probe_marks_follow_interval_and_holm(runs: Path) -> None:
    gathered = scan([runs])
    (probed,) = probe_sets(gathered, palette(gathered))
    row = next(row for row in probed.models if row.label == "maskfeat")
    marks = {feature: probed.mark(row, feature, "unseen_sign") for feature in probed.singles}
    assert set(marks.values()) == {"▲", "△", ""}
    for feature, mark in marks.items():
        d = probed.difference(row, feature, "unseen_sign")
        p = probed.get(row, feature, "unseen_sign", metric="p_holm")
        assert d is not None
        assert d.ci_low is not None
        assert p is not None
        assert mark == ("" if d.ci_low <= 0 else "▲" if p.value < 0.05 else "△")
    assert probed.features[0] == "mean:bundles"
    assert probed.singles == FEATURES
    assert [other.label for other in probed.rows][-1] == "majority"
    assert len(probed.permuted) == 3


def heat(runs: Path) -> ReportTable:
    sections = {section.anchor: section for section in compose(scan([runs]), "t").sections}
    return next(block for block in sections["probes"].blocks if isinstance(block, ReportTable))


def test_the_heat_map_runs_from_majority_to_perfect(runs: Path) -> None:
    table = heat(runs)
    rows = {row[0].text: row for row in table.rows}
    assert {cell.shade for cell in rows["majority"][1:]} == {0.0}
    for cell, floor in zip(rows["maskfeat"][1:], rows["majority"][1:], strict=True):
        assert isinstance(cell.raw, float)
        assert isinstance(floor.raw, float)
        assert cell.shade == pytest.approx((cell.raw - floor.raw) / (1 - floor.raw))
        assert "95 % CI" in cell.title


def test_an_incomplete_test_set_is_in_the_headline(tmp_path: Path) -> None:
    root = write_runs(tmp_path / "runs", clips=231, expected=258)
    read = words(build_report([root], tmp_path / "report.html").read_text())
    assert (
        "of 231 of 258 test clips of synthetic signs (an incomplete set)" in read.partition("Recognition accuracy")[0]
    )
    assert "Incomplete test set: 231 of 258 clips" in read


def test_scores_by_form_and_the_ceiling_are_shown_where_they_were_measured(
    tmp_path: Path, runs: Path, page: str
) -> None:
    assert "By sign form on" not in page
    shutil.copytree(runs, tmp_path / "runs")
    path = tmp_path / "runs" / "finetune" / "maskfeat" / "result.json"
    records = load_results(path)
    top1 = next(record for record in records if record.metric == "top1" and not record.group)
    by_form = {"value": 0.8765, "ci_low": 0.8, "ci_high": 0.9, "n": 200}
    ceiling = {"value": 0.9123, "ci_low": None, "ci_high": None, "ci_method": "", "n": 200}
    new = [
        top1.model_copy(update={**by_form, "metric": f"{what}_top1"}) for what in ("original", "same_form", "revised")
    ]
    save_results(path, [*records, *new, top1.model_copy(update={**ceiling, "metric": "label_ceiling_top1"})])
    audited = tmp_path / "runs" / "corpus" / "audit.json"
    assert audited.is_file()
    facts = json.loads(audited.read_text())
    known = {
        "n": 2660,
        "of": 2878,
        "top1": 0.8124,
        "top1_other_ties": 0.8098,
        "top5": 0.9914,
        "top5_other_ties": 0.9917,
    }
    facts["forms"] = {"train_forms_with_several_labels": 439, "label_ceiling": {"test": known}}
    facts["same_content"] |= {"groups": 2, "most_frequent_label_sets": {"mom / mother": 2}}
    audited.write_text(json.dumps(facts))
    read = words(build_report([tmp_path / "runs"], tmp_path / "report.html").read_text())
    table = read.partition("By sign form on synthetic signs")[2]
    assert "On the 200 test clips whose sign form is known" in table
    row = re.search(r"maskfeat (.*?) supervised|maskfeat (.*)", table)
    assert row is not None
    assert [number for number in re.findall(r"\d+\.\d", row[0]) if number in ("87.6", "91.2")] == ["87.6"] * 3 + [
        "91.2"
    ]
    assert "reaches 81.0–81.2 % top-1 and 99.1 % top-5 on the labels of 2,660 of 2,878 clips" in read
    assert "One recording, several labels: mom / mother." in read


def test_a_score_at_chance_is_said_to_be_no_more(tmp_path: Path, runs: Path) -> None:
    shutil.copytree(runs / "finetune" / "maskfeat", tmp_path / "runs" / "maskfeat")
    path = tmp_path / "runs" / "maskfeat" / "result.json"
    records = load_results(path)
    low = {"value": 0.1, "ci_low": 0.05, "ci_high": 0.16}
    save_results(path, [r.model_copy(update=low) if r.metric == "top1" and not r.group else r for r in records])
    read = words(build_report([tmp_path / "runs"], tmp_path / "report.html").read_text())
    assert "which is not shown to be above chance." in read


def test_a_missing_random_initialisation_is_said(tmp_path: Path) -> None:
    root = write_runs(tmp_path / "runs", with_random=False)
    read = words(build_report([root], tmp_path / "report.html").read_text())
    assert "No random-initialisation run was found" in read
    assert "due to pre-training is not known" in read


def test_only_pre_training_so_far(tmp_path: Path, runs: Path) -> None:
    shutil.copytree(runs / "pretrain" / "maskfeat", tmp_path / "runs" / "maskfeat")
    read = words(build_report([tmp_path / "runs"], tmp_path / "report.html").read_text())
    assert "No recognition result was found" in read
    assert "No probe result was found" in read
    assert "These folders hold no finished result yet." in read
    assert "maskfeat: training loss" in read


def test_broken_files_are_named_and_break_nothing(tmp_path: Path, runs: Path) -> None:
    root = tmp_path / "runs"
    shutil.copytree(runs, root)
    (root / "finetune" / "maskfeat" / "predictions.csv").write_text("nonsense\n1\n")
    (root / "finetune" / "supervised" / "result.json").write_text("{")
    (root / "pretrain" / "maskfeat" / "pictures.npz").write_bytes(b"not an archive")
    (root / "pretrain" / "posemae" / "encoder.safetensors").write_bytes(b"\xff" * 9)
    (root / "pretrain" / "supervised" / "metrics.jsonl").write_text('{"kind": "train", "step": 1, "lo')
    (root / "corpus" / "audit.json").write_text("[")
    (root / "corpus" / "samples.png").write_bytes(b"no picture")
    (root / "finetune" / "posemae" / "config.yaml").write_text("task: [")
    read = words(build_report([root], tmp_path / "report.html").read_text())
    assert "The predictions of finetune/maskfeat were left out" in read
    assert "not compared: no predictions.csv of maskfeat" in read
    assert "result.json: not valid json" in read
    assert "The pictures of pretrain/maskfeat cannot be read" in read
    assert "audit.json: not valid json" in read
    assert "The sample sheet of corpus cannot be read" in read
    assert "config.yaml: line 1: not valid YAML" in read


def test_failed_and_incomplete_runs_are_listed_with_their_reason(page: str) -> None:
    read = words(page).partition("What happened")[2]
    assert "RunFailed: the loss is not finite at step 12 (clips a, b)" in read
    assert "not finished (last recorded step 30)" in read


def test_an_interrupted_probe_is_incomplete(tmp_path: Path, runs: Path) -> None:
    shutil.copytree(runs / "probe", tmp_path / "runs" / "probe")
    (tmp_path / "runs" / "probe" / "result.json").unlink()
    (run,) = scan([tmp_path / "runs"]).runs
    assert run.problem.startswith("not finished")


def test_later_evaluations_of_a_run_are_rows_of_their_own(tmp_path: Path, runs: Path) -> None:
    root = tmp_path / "runs"
    shutil.copytree(runs / "finetune", root)
    folder = root / "maskfeat" / "evaluation_test_5x3"
    folder.mkdir()
    shutil.copy(root / "maskfeat" / "predictions.csv", folder)
    records = load_results(root / "maskfeat" / "result.json")
    changed = records[0].provenance.model_copy(update={"views": "5x3 whole"})
    save_results(folder / "result.json", [r.model_copy(update={"provenance": changed}) for r in records])
    gathered = scan([root])
    (found,), _ = scored_sets(gathered, palette(gathered))
    assert {"maskfeat · 1x1 whole", "maskfeat · 5x3 whole"} <= {row.label for row in found.rows}


def test_numbers_on_other_clips_or_labels_do_not_share_a_table(tmp_path: Path, runs: Path) -> None:
    root = tmp_path / "runs"
    shutil.copytree(runs / "finetune", root)
    path = root / "supervised" / "result.json"
    content = json.loads(path.read_text())
    content["provenance"]["split_fingerprint"] = "1" * 64
    path.write_text(json.dumps(content))
    gathered = scan([root])
    sets, _ = scored_sets(gathered, palette(gathered))
    assert sorted(len(found.rows) for found in sets) == [1, 4]
    assert len({found.title for found in sets}) == 2


def test_names_from_files_cannot_inject_markup(tmp_path: Path, runs: Path) -> None:
    root = tmp_path / "runs"
    shutil.copytree(runs, root)
    path = root / "finetune" / "maskfeat" / "result.json"
    path.write_text(path.read_text().replace('"name": "maskfeat"', '"name": "<b onload=x>&\\"y"'))
    page = build_report([root], tmp_path / "r.html", title="</title><script>").read_text()
    assert "<b onload" not in page
    assert "<script" not in page
    for drawing in re.findall(r"<svg.*?</svg>", page, flags=re.S):
        ElementTree.fromstring(drawing)
