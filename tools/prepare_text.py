#!/usr/bin/env python3
"""English text of the embedded model, from the Debian packages wordnet-base and dict-gcide.

    tools/prepare_text.py build/text

writes {wordnet,gcide}.{train,calibration,test}.txt, one dictionary entry per line, and SHA256SUMS. The two sources play
the two corpora of a paper's tables (one to calibrate on, one that is foreign to it). Same packages, same bytes.

Parts are drawn by the headword, so a word that is scored was never trained on, in either source:
crc32(lower-cased headword) % 40: 0 -> test, 1 -> calibration, else train.
"""
import argparse
import gzip
import hashlib
import pathlib
import re
import subprocess
import sys
import zlib

WORDNET = pathlib.Path("/usr/share/wordnet")
GCIDE = pathlib.Path("/usr/share/dictd/gcide.dict.dz")  # gzip reads dictzip


def part_of(headword):
    return {0: "test", 1: "calibration"}.get(zlib.crc32(headword.lower().encode()) % 40, "train")


# ------------------------------------------------------------------------------------------------------------ WordNet

def wordnet_entries():
    """Yields (headword, line), e.g. 'dog, domestic dog, Canis familiaris: a member of the genus Canis ...'."""
    for kind in ("noun", "verb", "adj", "adv"):
        path = WORDNET / f"data.{kind}"
        for line in path.read_text(encoding="ascii").splitlines():
            if line.startswith("  "):  # the licence, at the top of each file
                continue
            fields, gloss = line.split(" | ", 1)
            fields = fields.split(" ")
            count = int(fields[3], 16)
            # Words come as word, sense number, word, ...; adjectives may carry a position: 'alone(p)'.
            words = [re.sub(r"\((a|p|ip)\)$", "", w).replace("_", " ") for w in fields[4:4 + 2 * count:2]]
            yield words[0], f"{', '.join(words)}: {' '.join(gloss.split())}"


# -------------------------------------------------------------------------------------------------------------- GCIDE

# Characters that GCIDE spells in brackets, and words its editors put there to complete a quotation.
SPELLED = {"deg": " degrees", "ae": "ae", "AE": "Ae", "oe": "oe", "OE": "Oe", "eth": "th", "thorn": "th", "th": "th",
           "imac": "i", "asl": "a", "aum": "a", "add": "a", "udd": "u", "=oo": "oo", "oo^": "oo", "=ae": "ae",
           "pounds": "pounds ", **{w: w for w in ("He", "They", "She", "I", "The", "God", "is", "was")}}
ACCENTED = re.compile(r"""\[(?:['`"^~,=.*-]([A-Za-z])|([A-Za-z])\^)\]""")
FRACTION = re.compile(r"\[frac(\d)(\d+)\]")
BRACKETS = re.compile(r"\[[^\[\]]*\]")
# '--Sir T. Browne.' after a quotation: up to the next quotation or the end, if that is near, else to its full stop.
AUTHOR = re.compile(r'\s*--\s?(?=[A-Z0-9])(?:[^"]{0,60}?(?=\s*$|\s")|[^".]{0,40}\.)')
# What may stand between the headword and its definition: '(k[o^]m*p[=u]t"[~e]r), n.; pl. {Computers}'.
PARTS_OF_SPEECH = re.compile(
    r"(?:[\s,;.&]|\b(?:n|v|t|i|a|adj|adv|prep|conj|interj|pron|p|imp|pl|sing|obs|pr|ppr|vb|comp|compar|superl|pref|suff"
    r"|fem|masc|E|L|F|NL|pres|dat|gen|obj|poss|auxiliary|definite|indefinite|article)\.?(?![\w'])"
    r"|\b(?:or|and|prefix|suffix|comb\. form|proper|noun|verb)\b|\{[^}]*\}"
    r"|\([^)]*\)(?=[\s,;]*(?:,|n\.|v\.|a\.)))*")
STUB = re.compile(r"(?:See(?: under| also| the)?|Same as|Pl\. of|imp\. of|p\. p\. of|Alt\. of|Var\. of)\b[^.]{0,60}\.?$")


def without_marks(text):
    """Brackets hold spelled characters (kept), etymologies, labels such as [Obs.] and source marks (dropped)."""
    text = re.sub(r"\[([^\[\]\s]{1,6})\]", lambda m: SPELLED.get(m[1], m[0]), text)
    text = FRACTION.sub(r" \1/\2", ACCENTED.sub(lambda m: m[1] or m[2], text))
    while BRACKETS.search(text):
        text = BRACKETS.sub("", text)
    return re.sub(r"[\[\]]", "", text)


def unhyphenated(words):
    """'Gre*ga"ri*ous*ly' -> 'Gregariously': syllable and stress marks stand inside a word or close it."""
    return re.sub(r'(?<=\w)["`*]+(?=\w)|(?<=\w)["`](?=\s|-|$)', "", words)


def clean(text):
    text = re.sub(r"\{([^{}]*)\}", lambda m: unhyphenated(m[1]), " ".join(without_marks(text).split()))
    text = AUTHOR.sub("", text)
    text = re.sub(r"\s+([,;:?!)])", r"\1", re.sub(r"[{}\\]", "", text))
    return re.sub(r"([,;:])[,;:]+", r"\1", text).strip(" ,;")


def head_and_body(entry):
    """The head (word, pronunciation, part of speech, etymology) ends where a line was broken before it was full."""
    lines = entry.split("\n")
    end = 1
    while end < len(lines) and lines[end].strip():
        first_word = lines[end].split()[0]
        if re.match(r"\d+\.$", first_word) or len(lines[end - 1]) + 1 + len(first_word) <= 64:
            break
        end += 1
    head, tail = lines[0].split("\\", 1)  # 'Greet \Greet\, v. t.'; some have only the part between the backslashes
    head = unhyphenated(without_marks(head.strip() or tail.split("\\")[0]))
    tail = "\\" + tail
    tail = without_marks(" ".join([tail] + [line.strip() for line in lines[1:end]]))
    tail = re.sub(r"(?:(?:,|;|\bor|\band)\s[^\\,;]{1,40})?\\[^\\]*\\", " ", tail)  # pronunciations, further spellings
    tail = " ".join(tail[PARTS_OF_SPEECH.match(tail).end():].split())
    # A definition that began in a full line of the head; a shorter rest is a field like '(Zool.)' or a stray mark.
    if len(tail.split()) < 4 and not re.fullmatch(r"\([A-Z][^()]*\.?\)", tail):
        tail = ""
    return head, tail, "\n".join(lines[end:])


def paragraphs(body):
    """Yields (text, is a quotation). A source mark closes all paragraphs since the mark before; WordNet's own senses
    are left out: they would carry one source's text into the other."""
    pending = []
    for block in re.split(r"\n\s*\n", body):
        if not block.strip():
            continue
        pending.append((block, re.match(r" {9}", block) is not None))
        if "WordNet" in block:
            pending = []
        elif re.search(r"\[(?:\d{4} )?(?:Webster|PJC|Century|AS|RDH|MW|RHUD)", block):
            yield from pending
            pending = []
    yield from pending


def gcide_entries(path):
    text = gzip.decompress(path.read_bytes()).decode("latin-1")
    text = text.encode("ascii", "ignore").decode("ascii")  # three stray bytes
    for entry in re.split(r"\n(?=\S)", text):
        if "\\" not in entry.split("\n", 1)[0] or entry.startswith("00-database"):
            continue
        head, first, body = head_and_body(entry)
        senses = []
        for block, quotation in paragraphs(body):
            sense = re.sub(r"^\d+\.\s+", "", clean(block))
            if not re.search(r"[a-z]{2}", sense) or STUB.match(sense):
                continue
            if quotation and '"' not in sense:
                sense = f'"{sense}"'
            elif not sense.endswith((".", "!", "?", '"', ")")):
                sense += "."
            senses.append(sense)
        if first and (senses or len(first.split()) > 3):
            senses.insert(0, clean(first))
        definition = " ".join(senses)
        if len(definition.split()) >= 3 and not STUB.match(definition):
            yield head, f"{head}: {definition}"


# --------------------------------------------------------------------------------------------------------------- main

def package_version(package, path):
    if not path.exists():
        sys.exit(f"prepare_text: {path} is missing.\n  It comes with the Debian package {package}: "
                 f"sudo apt-get install {package}  (or ./setup.sh, which fetches what is missing)")
    query = subprocess.run(["dpkg-query", "-W", "-f=${Version}", package], capture_output=True, text=True)
    return query.stdout or "(unpacked, not installed)"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=pathlib.Path, help="where the text goes (created)")
    parser.add_argument("--gcide", type=pathlib.Path, default=GCIDE, help="another place of gcide.dict.dz")
    args = parser.parse_args()
    folder = args.folder
    for package, path in (("wordnet-base", WORDNET / "data.noun"), ("dict-gcide", args.gcide)):
        print(f"{package} {package_version(package, path)}")
    folder.mkdir(parents=True, exist_ok=True)
    sums = []
    for source, entries in (("wordnet", wordnet_entries()), ("gcide", gcide_entries(args.gcide))):
        parts = {"train": [], "calibration": [], "test": []}
        for headword, line in entries:
            parts[part_of(headword)].append(line + "\n")
        for part, lines in parts.items():
            data = "".join(lines).encode()
            name = f"{source}.{part}.txt"
            (folder / name).write_bytes(data)
            sums.append(f"{hashlib.sha256(data).hexdigest()}  {name}\n")
            print(f"{sums[-1][:64]}  {name:<24} {len(lines):>7} entries {len(data):>9} bytes")
    (folder / "SHA256SUMS").write_text("".join(sums))


if __name__ == "__main__":
    main()
