from cvmae.runtime.tables import text_table


def test_a_long_text_goes_on_below_its_own_column():
    lines = text_table(
        ("file", "what"), [("a.parquet", "no column of time"), ("b", "-")], "<", wrapped={1: 9}
    ).splitlines()
    assert lines == [
        "file       what",
        "--------------------",
        "a.parquet  no column",
        "           of time",
        "b          -",
    ]


def test_columns_are_as_wide_as_their_widest_cell_and_lines_end_where_their_text_does():
    lines = text_table(("a", "b", "c"), [("1", "1,000", ""), ("22", "2", "x")], "<><").splitlines()
    assert lines == ["a       b  c", "------------", "1   1,000", "22      2  x"]


def test_a_table_without_rows_shows_its_header():
    assert text_table(("a", "b"), []).splitlines() == ["a  b", "----"]
