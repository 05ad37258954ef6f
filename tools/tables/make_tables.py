#!/usr/bin/env python3
"""Writes the table files of experiments/tables from the transcription of the paper's tables.

    tools/tables/make_tables.py tables.json experiments/tables

tables.json: {"tables": [{"id", "model", "rows": [{"model", "bits", "method", ..., "values"}]}], "doubts":
[{"table", "where", "kept", "other", "why"}]}. What each row runs here, its labels and the trends come from
paper_rows.py, the words of the doubts from paper_doubts.py. A file that is already there and that
paper_rows.py does not make (3a, 3b, ...; written by hand) only gets its doubts.
"""
import json
import pathlib
import re
import sys

from paper_doubts import DOUBTS
from paper_rows import TABLES


def named_tables(text):
    """The ids in "iclr.5 vs v4.6", "v1.1/v1.3", "v4.3-v4.6" (a range)."""
    span = re.fullmatch(r"(v4)\.(\d)-v4\.(\d)", text)
    if span:
        return [f"v4.{n}" for n in range(int(span[2]), int(span[3]) + 1)]
    return re.findall(r"(?:iclr|v4|v1)\.\d+[abc]?", text)


def doubts_of(table_id, doubts):
    found = []
    for doubt in doubts:
        if table_id not in named_tables(doubt["table"]):
            continue
        other, why = DOUBTS[(doubt["table"], doubt["where"])]
        found.append({"where": doubt["where"], "kept": doubt["kept"], "other": other, "why": why})
    return found


def text_of(table):
    """One line per field; one per row, trend, doubt."""
    lines = []
    for key, value in table.items():
        if key in ("rows", "trends", "doubts"):
            items = ",\n".join("    " + json.dumps(item, ensure_ascii=False) for item in value)
            lines.append(f'  "{key}": [\n{items}\n  ]')
        else:
            lines.append(f'  "{key}": ' + json.dumps(value, ensure_ascii=False))
    return "{\n" + ",\n".join(lines) + "\n}\n"


def with_paper_values(table, paper):
    rows = []
    for row in table.pop("rows"):
        paper_row = paper[row["source"][0].rsplit("/", 1)[0]]["rows"][int(row["source"][0].rsplit("/", 1)[1])]
        values = {k: v for k, v in paper_row["values"].items() if v is not None}
        values = {k: int(v) if isinstance(v, bool) else v for k, v in values.items()}
        rows.append({**row, "paper": values})
    trends = table.pop("trends", [])
    table["rows"] = rows
    if trends:
        table["trends"] = trends
    return table


def with_method(table):
    """Tables that take the reconstruction apart, or time it, run the method that ends with it: what the last stage of
    method cbq learns would hide what windows, losses and rounding schemes differ by."""
    compares_methods = any("method" in row["settings"] for row in table["rows"])
    if table.get("kind") == "components" or (compares_methods and table.get("kind") != "hours"):
        return table
    items = {key: value for key, value in table.items() if key != "method"}
    made = {}
    for key, value in items.items():
        made[key] = value
        if key == "bits":
            made["method"] = "cbq_windows"
    return made


def main():
    data = json.loads(pathlib.Path(sys.argv[1]).read_text())
    folder = pathlib.Path(sys.argv[2])
    paper = {table["id"]: table for table in data["tables"]}
    assert {(d["table"], d["where"]) for d in data["doubts"]} == set(DOUBTS), "doubts without words, or words without doubt"
    made = {}
    for make in TABLES:
        table = make(paper)
        made[table["key"]] = with_paper_values(table, paper)
    for file in folder.glob("*.json"):
        table = json.loads(file.read_text())
        made.setdefault(table["key"], table)
    for key, table in made.items():
        table = made[key] = with_method(table)
        table.pop("doubts", None)
        ids = table["paper"]["tables"]
        doubts = [d for i in ids for d in doubts_of(i, data["doubts"])]
        unique = [d for n, d in enumerate(doubts) if d not in doubts[:n]]
        if unique:
            table["doubts"] = unique
        (folder / f"{key}.json").write_text(text_of(table))


if __name__ == "__main__":
    main()
