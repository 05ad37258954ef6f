#!/usr/bin/env python3
"""Refuses two classes of one name in one namespace.

The C++ standard forbids them (the one-definition rule) and no tool reports them: the linker keeps one of the two implicit
destructors and constructors for both. Classes in unnamed namespaces and in functions belong to their file alone.

Run from the root; prints one line per violation and exits 1 if there is any.
"""
import collections
import pathlib
import re
import sys

FOLDERS = ["tensor", "kernels", "autograd", "nn", "quant", "cbq", "experiments", "tools", "tests"]
SUFFIXES = {".h", ".cpp", ".cu", ".cuh"}

IGNORED = re.compile(r'R"(\w*)\(.*?\)\1"|"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])\'|//[^\n]*|/\*.*?\*/|^[ \t]*#(?:\\\n|[^\n])*',
                     re.S | re.M)
# The words in front of a brace say what it opens.
NAMESPACE = re.compile(r"(?:^|\s)namespace(?:\s+([\w:]+))?\s*$")
CLASS = re.compile(r"(?:^|\s)(?:class|struct|union|enum(?:\s+class|\s+struct)?)\s+(?:\[\[\w+\]\]\s*|alignas\([^)]*\)\s*)*"
                   r"([\w:]+)(?:\s+final)?\s*(?::[^:].*|)$", re.S)


def without_text(source):
    """The source without comments, strings and preprocessor lines; line numbers are kept."""
    return IGNORED.sub(lambda m: "\n" * m[0].count("\n"), source)


def definitions(source):
    """(qualified name, line number) of the classes of named namespaces."""
    scopes, begin, line = [], 0, 1
    text = without_text(source)
    for match in re.finditer(r"[{};]|\n", text):
        mark = match[0]
        if mark == "\n":
            line += 1
            continue
        words = text[begin:match.start()].strip()
        begin = match.end()
        if mark == "}" and scopes:
            scopes.pop()
        if mark != "{":
            continue
        words = re.sub(r"^(?:(?:public|private|protected)\s*:\s*)+", "", words)
        space, name = NAMESPACE.search(words), CLASS.search(words)
        if space:
            scopes.append(space[1])  # None: unnamed
        elif name and not words.endswith(")"):
            # A template's specializations share its name on purpose, and do not match.
            qualified = "::".join([s for s in scopes if s] + [name[1]])
            if None not in scopes and "" not in scopes:
                yield qualified, line
            scopes.append(name[1])
        else:
            scopes.append("")  # a function, an initializer


def main():
    places = collections.defaultdict(dict)
    files = [p for folder in FOLDERS for p in sorted(pathlib.Path(folder).rglob("*")) if p.suffix in SUFFIXES]
    for path in files:
        for name, line in definitions(path.read_text(encoding="utf-8")):
            places[name].setdefault(path, line)  # one file may define it twice, behind #if and #else
    found = [f"{name} is defined in {', '.join(f'{path}:{line}' for path, line in where.items())}"
             for name, where in sorted(places.items()) if len(where) > 1]
    print("\n".join(found + [f"{len(places)} class names in {len(files)} files checked, {len(found)} violations"]))
    if not places:
        sys.exit("no classes found: run from the root of the project")
    sys.exit(1 if found else 0)


if __name__ == "__main__":
    main()
