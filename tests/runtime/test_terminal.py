"""What a terminal shows that has a table at its foot."""

import io
import sys

import pytest

from cvmae.runtime.terminal import Foot, foot_of_terminal


class Terminal(io.StringIO):
    """As much of a terminal as is needed: a screen, upwards moves, and erasing to its end."""

    def isatty(self):
        return True

    def screen(self):
        lines, at = [""], 0
        for part in self.getvalue().replace("\x1b[J", "\x00").split("\x1b["):
            text = part
            if part[:1].isdigit() and "A" in part:
                up, _, text = part.partition("A")
                at -= int(up)
            for sign in text:
                if sign == "\n":
                    at += 1
                    lines += [""] * (at + 1 - len(lines))
                elif sign == "\x00":
                    lines = [*lines[:at], ""]
                elif sign != "\r":
                    lines[at] += sign
        return lines[:-1]


def test_a_table_is_drawn_in_the_place_of_the_one_before():
    terminal = Terminal()
    foot = Foot(terminal)
    foot.show("one\ntwo")
    foot.show("three\nfour\nfive")
    foot.show("six")
    assert terminal.screen() == ["six"]


def test_what_others_print_stands_above_the_table_line_by_line():
    terminal = Terminal()
    foot = Foot(terminal)
    foot.show("table")
    foot.write("a warn")
    assert terminal.screen() == ["table"]
    foot.write("ing\nand more")
    foot.show("table 2")
    assert terminal.screen() == ["a warning", "table 2"]
    foot.end()
    assert terminal.screen() == ["a warning", "and more", "table 2"]


def test_a_line_longer_than_the_terminal_is_wide_is_cut(monkeypatch):
    monkeypatch.setenv("COLUMNS", "10")
    terminal = Terminal()
    Foot(terminal).show("0123456789012")
    assert terminal.screen() == ["012345678"]


def test_all_that_a_process_prints_goes_through_the_foot(monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with foot_of_terminal() as foot:
        foot.show("table")
        print("said", file=sys.stderr)
        assert not sys.stderr.isatty()  # bars would tear the table
    assert terminal.screen() == ["said", "table"]
    assert sys.stderr is terminal


def test_without_a_terminal_there_is_no_foot(monkeypatch):
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    with foot_of_terminal() as foot:
        assert foot is None


@pytest.mark.parametrize(("text", "above"), [("", []), ("\n", [""])])
def test_an_empty_line_stands_above_the_table_and_nothing_where_nothing_is_written(text, above):
    terminal = Terminal()
    foot = Foot(terminal)
    foot.show("table")
    foot.write(text)
    assert terminal.screen() == [*above, "table"]
