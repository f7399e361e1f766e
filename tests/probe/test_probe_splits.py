"""Splits of probes: what must stay together does, what leaks is refused, what is written can be trusted."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from islr.data.manifest import Clip, Manifest
from islr.data.phonology import Columns, join, read_asl_lex
from islr.errors import UserError
from probe import splits
from probe.splits import Fold, Split, seen_sign, stratified_groups, unseen_sign, unseen_sign_signer
from probe.targets import Targets, connected, make_targets, targets_from


def same_names(*features: str) -> Columns:
    """A lexicon's columns that are called as their features."""
    return Columns(entry="EntryID", lemma="LemmaID", features={name: name for name in features})


def corpus(signs: int = 40, signers: int = 6, seed: int = 0, official: str = "signers") -> Targets:
    """Every sign by every signer; a common and a rare feature; the last signer is the official test one."""
    rng = np.random.default_rng(seed)
    sign = np.repeat(np.arange(signs), signers)
    signer = np.tile(np.arange(signers), signs)
    features = {
        "Handshape": np.repeat(rng.integers(0, 4, signs), signers),
        "Rare": np.repeat((np.arange(signs) < 10).astype(int), signers),
    }
    split = np.where(signer == signers - 1, "test", "train")
    if official == "clips":
        split = np.where(rng.random(len(sign)) < 0.25, "test", "train")
    return make_targets(
        clip_ids=[f"c{i:04d}" for i in range(len(sign))],
        features=features,
        classes={"Handshape": list("abcd"), "Rare": ["no", "yes"]},
        signs=[f"s{i:03d}" for i in sign],
        groups=[f"g{i // 2:03d}" for i in sign],
        signers=[f"p{i}" for i in signer],
        official=split.tolist(),
    )


def disjoint(a: np.ndarray, b: np.ndarray) -> bool:
    return not np.intersect1d(a, b).size


def test_unseen_sign_tests_every_clip_once_and_no_group_on_two_sides() -> None:
    targets = corpus()
    split = unseen_sign(targets, 5, 0.2, 0)
    tested = np.sort(np.concatenate([fold.test for fold in split.folds]))
    assert (tested == np.arange(len(targets))).all()
    for fold in split.folds:
        groups = [set(targets.groups[rows]) for rows in (fold.fit, fold.select, fold.test)]
        assert not groups[0] & groups[1]
        assert not groups[2] & (groups[0] | groups[1])
        assert 0.1 < len(fold.select) / len(fold.train) < 0.35


def test_classes_are_spread_evenly_over_folds() -> None:
    targets = corpus(signs=100)
    split = unseen_sign(targets, 5, 0.2, 0)
    for labels in targets.features.values():
        for label in np.unique(labels):
            groups = [len(np.unique(targets.groups[f.test[labels[f.test] == label]])) for f in split.folds]
            assert max(groups) - min(groups) <= 3, groups  # groups hold two signs each


def test_row_order_does_not_change_the_parts() -> None:
    targets = corpus()
    order = np.random.default_rng(1).permutation(len(targets))
    one = stratified_groups(targets.labels, targets.groups, 5, np.random.default_rng(0))
    other = stratified_groups(targets.labels[:, order], targets.groups[order], 5, np.random.default_rng(0))
    assert (one[order] == other).all()


def test_seeds_give_different_splits_and_equal_seeds_equal_ones() -> None:
    targets = corpus()
    marks = [unseen_sign(targets, 5, 0.2, seed).fingerprint(targets) for seed in (0, 0, 1)]
    assert marks[0] == marks[1] != marks[2]


def test_seen_sign_with_new_signers_holds_out_signers() -> None:
    targets = corpus()
    (fold,) = (split := seen_sign(targets, 5, 0.2, 0)).folds
    assert split.notes["test_signers"] == "unseen"
    assert set(targets.signers[fold.test]) == {"p5"}
    assert disjoint(targets.signers[fold.fit], targets.signers[fold.select])
    assert set(targets.groups[fold.test]) <= set(targets.groups[fold.train])


def test_seen_sign_with_known_signers_holds_out_clips_of_every_sign() -> None:
    targets = corpus(official="clips")
    (fold,) = (split := seen_sign(targets, 5, 0.25, 0)).folds
    assert split.notes["test_signers"] == "seen"
    assert 0.1 < len(fold.select) / len(fold.train) < 0.4
    assert set(targets.groups[fold.select]) <= set(targets.groups[fold.fit])


def test_seen_sign_leaves_out_test_clips_of_signs_never_trained_on() -> None:
    targets = corpus()
    official = targets.official.copy()
    official[targets.groups == "g003"] = "test"
    split = seen_sign(dataclasses.replace(targets, official=official), 5, 0.2, 0)
    assert split.notes["test_clips_of_unseen_signs_left_out"] == 12
    assert "g003" not in targets.groups[split.folds[0].test]


def test_unseen_sign_signer_shares_neither_signs_nor_signers() -> None:
    targets = corpus()
    for fold in unseen_sign_signer(targets, 3, 0.2, 0).folds:
        assert disjoint(targets.groups[fold.train], targets.groups[fold.test])
        assert disjoint(targets.signers[fold.train], targets.signers[fold.test])
    with pytest.raises(UserError, match="6 known signers are too few for 7 folds"):
        unseen_sign_signer(targets, 7, 0.2, 0)


def test_a_duplicate_recording_across_the_split_is_an_error() -> None:
    targets = corpus()
    contents = targets.contents.copy()
    test, train = (np.flatnonzero(targets.official == name)[0] for name in ("test", "train"))
    contents[test] = contents[train]
    with pytest.raises(UserError, match=r"recording 'c0000' is in (fit|select) and in test"):
        seen_sign(dataclasses.replace(targets, contents=contents), 5, 0.2, 0)


@pytest.mark.parametrize("kind", ["clip", "group", "tested twice", "empty"])
def test_overlap_is_a_hard_error(kind: str) -> None:
    targets = corpus()
    split = unseen_sign(targets, 5, 0.2, 0)
    first, second, *rest = split.folds
    if kind == "clip":
        first = dataclasses.replace(first, fit=np.append(first.fit, first.test[0]))
    elif kind == "group":
        first = dataclasses.replace(first, fit=np.append(first.fit, first.test[0]), test=first.test[1:])
    elif kind == "tested twice":
        second = dataclasses.replace(second, test=np.append(second.test, first.test[0]))
    else:
        first = dataclasses.replace(first, test=first.test[:0])
    with pytest.raises(UserError, match=r"is in fit and in test|tested in two folds|no clip to test"):
        splits.check(Split(split.name, (first, second, *rest)), targets)


def test_too_few_groups_say_how_many_folds_are_possible() -> None:
    with pytest.raises(UserError, match="4 sign groups are too few for 5 folds; set folds to 2"):
        unseen_sign(corpus(signs=8), 5, 0.2, 0)


def test_no_official_split_says_what_to_do() -> None:
    targets = corpus()
    with pytest.raises(UserError, match=r"set splits: \[unseen_sign\]"):
        seen_sign(dataclasses.replace(targets, official=np.full(len(targets), "none")), 5, 0.2, 0)


def test_files_round_trip_and_refuse_changes(tmp_path: Path) -> None:
    targets = corpus()
    split = unseen_sign(targets, 5, 0.2, 0)
    path = tmp_path / "splits" / "unseen_sign.json"
    mark = splits.save(split, targets, path)
    loaded, again = splits.load(path, targets)
    assert again == mark == splits.save(split, targets, path)
    for a, b in zip(split.folds, loaded.folds, strict=True):
        assert all((getattr(a, part) == getattr(b, part)).all() for part in ("fit", "select", "test"))
    with pytest.raises(UserError, match="holds another split"):
        splits.save(unseen_sign(targets, 5, 0.2, 9), targets, path)
    content = json.loads(path.read_text())
    moved = content["folds"][0]["fit"].pop()
    content["folds"][0]["select"].append(moved)
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match="do not agree with its hash"):
        splits.load(path, targets)
    content["folds"][0]["fit"].append("nobody")
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match="nobody"):
        splits.load(path, targets)


def test_equal_pictures_of_two_files_are_one_recording(tmp_path: Path) -> None:
    lexicon = tmp_path / "lexicon.csv"
    lexicon.write_text("EntryID,LemmaID,Shape\n" + "".join(f"w{i},w{i},{i % 4}\n" for i in range(4)))
    table = read_asl_lex(lexicon, same_names("Shape"))
    clips = [
        Clip(f"w{i}-{j}", f"w{i}-{j}.mp4", gloss=f"w{i}", label=0, split="test" if j == 2 else "train")
        for i in range(4)
        for j in range(3)
    ]
    manifest = Manifest("m", tuple(clips), tmp_path, ("all",))
    joined = join(manifest, table)
    plain = targets_from(manifest, joined, table)
    seen_sign(plain, 2, 0.3, 0)
    same = [("w0-0", "w1-2"), ("w1-2", "w1-1")]
    targets = targets_from(manifest, joined, table, same=same)
    of = dict(zip(targets.clip_ids.tolist(), targets.contents.tolist(), strict=True))
    assert of["w0-0"] == of["w1-1"] == of["w1-2"]
    assert len(set(of.values())) == 10
    # Where signs are unseen the two signs go together; on the official split it is an error that names the pair.
    group = dict(zip(targets.clip_ids.tolist(), targets.groups.tolist(), strict=True))
    assert group["w0-1"] == group["w1-0"] != group["w2-0"]
    with pytest.raises(UserError, match=r"w[01]-[01] = w1-2.*shared_with_test=drop"):
        seen_sign(targets, 2, 0.3, 0)
    dropped, names = splits.without_shared(targets)
    assert names == ["w0-0", "w1-1"]
    (fold,) = seen_sign(dropped, 2, 0.3, 0).folds
    assert not set(names) & set(dropped.clip_ids[fold.train].tolist())


def test_connected_joins_through_others() -> None:
    names = ["a", "b", "c", "d"]
    assert connected(names, [["x"], ["x", "y"], ["y"], ["z"]]) == ["a", "a", "a", "d"]


def test_groups_join_homophones_lemmas_glosses_and_recordings(tmp_path: Path) -> None:
    lexicon = tmp_path / "lexicon.csv"
    lexicon.write_text(
        "EntryID,LemmaID,Shape,Place,Hands\n"
        "one,one,a,x,1\n"
        "two,two,a,x,1\n"  # a homophone of `one`
        "three,three,b,x,2\n"
        "four,three,c,y,2\n"  # of the lemma of `three`, so that only the hands of `three` are certain
        "five,five,b,y,1\n"
        "six,six,c,x,2\n"
    )
    table = read_asl_lex(
        lexicon,
        same_names("Shape", "Place", "Hands"),
    )
    words = ["one", "two", "three", "four", "five", "six", "unknown"]
    clips = [Clip(f"{w}{i}", f"{w}{i}.mp4", gloss=w, label=0) for w in words for i in range(2)]
    clips.append(Clip("six2", "five0.mp4", gloss="six", label=0))  # the recording of `five0` under another word
    manifest = Manifest("m", tuple(clips), tmp_path, ("all",))
    targets = targets_from(manifest, join(manifest, table), table)
    group = dict(zip(targets.clip_ids.tolist(), targets.groups.tolist(), strict=True))
    assert "unknown0" not in group
    assert group["one0"] == group["one1"] == group["two0"]
    assert group["three0"] == group["four0"]
    assert group["five0"] == group["six0"] == group["six2"]
    assert len(set(group.values())) == 3
    with pytest.raises(UserError, match="unknown feature 'Colour'"):
        targets_from(manifest, join(manifest, table), table, ["Colour"])


def test_targets_are_independent_of_manifest_order_and_feature_choice(tmp_path: Path) -> None:
    lexicon = tmp_path / "lexicon.csv"
    lexicon.write_text("EntryID,LemmaID,Shape,Place\n" + "".join(f"w{i},w{i},{i % 3},{i % 4}\n" for i in range(24)))
    table = read_asl_lex(lexicon, same_names("Shape", "Place"))
    clips = [Clip(f"c{i:02d}", f"{i}.mp4", gloss=f"w{i}", label=0) for i in range(24)]
    marks = []
    for rows in (clips, clips[::-1]):
        manifest = Manifest("m", tuple(rows), tmp_path, ("all",))
        targets = targets_from(manifest, join(manifest, table), table)
        marks.append((targets.fingerprint(), targets.groups.tolist()))
        # Groups come from the whole vector: choosing one feature must not merge all signs that share it.
        alone = targets_from(manifest, join(manifest, table), table, ["Shape"])
        assert len(np.unique(alone.groups)) == len(np.unique(targets.groups)) == 12
    assert marks[0] == marks[1]


def test_duplicate_clip_ids_are_refused() -> None:
    with pytest.raises(UserError, match="a clip id occurs twice"):
        make_targets(clip_ids=["a", "a"], features={"F": np.array([0, 1])}, classes={"F": ["x", "y"]}, signs=["s", "t"])


def test_fold_train_is_sorted_union() -> None:
    fold = Fold(np.array([4, 1]), np.array([2]), np.array([0]))
    assert fold.train.tolist() == [1, 2, 4]
