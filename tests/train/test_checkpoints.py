"""Whose checkpoints are gone on from, and what becomes of those that are not."""

from __future__ import annotations

import shutil
from pathlib import Path

from gecko.train.checkpoints import own_checkpoint


def write_checkpoint(folder: Path, step: int, *, whole: bool = True) -> Path:
    made = folder / f"checkpoint-{step}"
    made.mkdir()
    (made / "trained.safetensors").write_text(str(step))
    if whole:
        (made / "whole").touch()
    return made


def test_another_training_s_checkpoints_are_set_aside_and_none_is_overwritten(tmp_path: Path) -> None:
    folder, one, other = tmp_path / "checkpoints", "a" * 16, "b" * 16
    lines: list[str] = []
    assert own_checkpoint(folder, one, lines.append) is None
    assert own_checkpoint(folder, one, lines.append) is None
    for step, mark in ((2, one), (4, other), (6, one)):
        assert own_checkpoint(folder, mark, lines.append) is None
        made = write_checkpoint(folder, step)
        assert own_checkpoint(folder, mark, lines.append) == made
    assert own_checkpoint(folder, other, lines.append) is None
    aside = [tmp_path / name for name in ("checkpoints-aaaaaaaa", "checkpoints-bbbbbbbb", "checkpoints-aaaaaaaa-2")]
    assert {path.name for path in tmp_path.iterdir()} == {"checkpoints", *(path.name for path in aside)}
    for place, step, line in zip(aside, (2, 4, 6), lines, strict=True):
        assert (place / f"checkpoint-{step}" / "trained.safetensors").read_text() == str(step)
        assert line.endswith(f"are set aside; they may be deleted: {place}")
    shutil.rmtree(folder)
    aside[0].rename(folder)  # the way back
    assert own_checkpoint(folder, one, lines.append) == folder / "checkpoint-2"


def test_checkpoints_that_are_not_whole_are_not_kept(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoints"
    lines: list[str] = []
    own_checkpoint(folder, "a" * 16)
    write_checkpoint(folder, 2, whole=False)
    assert own_checkpoint(folder, "b" * 16, lines.append) is None
    assert not lines
    assert list(tmp_path.iterdir()) == [folder]
    assert not list(folder.glob("checkpoint-*"))
