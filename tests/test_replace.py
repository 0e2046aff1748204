"""A folder put in its place whole, whatever interrupts it."""

from __future__ import annotations

from pathlib import Path

import pytest

from gecko.replace import replaced


def write(out: Path, text: str) -> None:
    with replaced(out) as fresh:
        (fresh / "model").write_text(text)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_what_stood_there_comes_back_after_a_kill_between_the_renames(tmp_path: Path) -> None:
    out = tmp_path / "m"
    write(out, "old")
    out.rename(tmp_path / ".m.old")  # as far as the killed process came
    (tmp_path / ".m.new").mkdir()
    with pytest.raises(OSError, match="full"), replaced(out):
        raise OSError("the disk is full")
    assert (out / "model").read_text() == "old"
    assert names(tmp_path) == ["m"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
def test_what_stood_there_comes_back_after_an_interruption(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: type[BaseException]
) -> None:
    out = tmp_path / "m"
    write(out, "old")
    rename = Path.rename

    def interrupted(self: Path, target: Path) -> Path:
        if self.name == ".m.new":
            raise error
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", interrupted)
    with pytest.raises(error):
        write(out, "new")
    assert (out / "model").read_text() == "old"
    assert names(tmp_path) == ["m"]


def test_a_link_stays_and_what_it_points_to_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "big").mkdir()
    (tmp_path / "m").symlink_to(tmp_path / "big")
    for text in ("first", "second", "third"):
        write(tmp_path / "m", text)
        assert (tmp_path / "big" / "model").read_text() == text
    assert (tmp_path / "m").is_symlink()
    assert names(tmp_path) == ["big", "m"]
