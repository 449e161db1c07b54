"""Codes files as editors and spreadsheets save them."""

import pytest

from cvmae.settings import DataConfig
from cvmae.statistics.vocabulary import file_hash, open_candidates

TWO = (("LAB//A//mg",), ("LAB//B//µmol/L", "LAB//C"))
TEXT = "LAB//A//mg\nLAB//B//µmol/L\tLAB//C\n"


@pytest.fixture
def codes_file(tmp_path):
    """Return a function that saves a codes file and returns its path."""

    def save(content):
        path = tmp_path / "codes.txt"
        path.write_bytes(content)
        return str(path)

    return save


def entries(path):
    return open_candidates(DataConfig(codes_file=path)).entries


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
@pytest.mark.parametrize("line_end", ["\n", "\r\n", "\r"], ids=["Unix", "Windows", "old Mac"])
def test_a_codes_file_has_the_same_codes_whichever_program_saved_it(codes_file, encoding, line_end):
    assert entries(codes_file(TEXT.replace("\n", line_end).encode(encoding))) == TWO


def test_the_mark_before_utf_8_does_not_make_another_codes_file(codes_file):
    plain = file_hash(codes_file(TEXT.encode()))
    assert file_hash(codes_file(TEXT.encode("utf-8-sig"))) == plain


@pytest.mark.parametrize(
    ("encoding", "line"),
    [("latin-1", 2), ("cp1252", 2), ("utf-16", 1)],
)
def test_a_codes_file_in_another_encoding_is_refused_with_its_line(codes_file, encoding, line):
    path = codes_file(TEXT.encode(encoding))
    with pytest.raises(ValueError, match=rf"txt, line {line}, is not UTF-8: save it") as said:
        entries(path)
    assert f"data.codes_file={path}" in str(said.value)


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be", "utf-32-le"])
def test_two_bytes_a_character_without_a_mark_are_refused_as_well(codes_file, encoding):
    with pytest.raises(ValueError, match=r"line 1, is not UTF-8"):
        entries(codes_file("LAB//A\nLAB//B\n".encode(encoding)))


def test_codes_in_quotes_are_refused_with_their_line(codes_file):
    with pytest.raises(ValueError, match=r'line 2: "LAB//B" is in quotes; write codes without'):
        entries(codes_file(b'LAB//A\n"LAB//B"\t"LAB//C"\n'))


def test_a_folder_is_no_codes_file(tmp_path):
    with pytest.raises(ValueError, match=r"data\.codes_file=.* is a folder"):
        entries(str(tmp_path))
