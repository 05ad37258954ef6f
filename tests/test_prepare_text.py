"""tools/prepare_text.py on entries in the packages' own notation. Run by ctest; alone: python3 tests/test_prepare_text.py"""
import gzip
import pathlib
import subprocess
import sys
import tempfile
import unittest

TOOLS = pathlib.Path(__file__).parent.parent / "tools"
sys.path.insert(0, str(TOOLS))
sys.dont_write_bytecode = True
import prepare_text  # noqa: E402

GCIDE = r'''Absolve \Ab*solve"\ (#; 277), v. t. [imp. & p. p. {Absolved}; p.
   pr. & vb. n. {Absolving}.] [L. absolvere to set free, to
   absolve; ab + solvere to loose. See {Assoil}, {Solve}.]
   1. To set free, or release, as from some obligation, debt, or
      responsibility. [Obs.]
      [1913 Webster]

            Halifax was absolved by a majority of fourteen.
                                                  --Macaulay.
      [1913 Webster]

   2. a sense that came from elsewhere

   Syn: a synonym from there
        [WordNet 1.5 +PJC]

   {Ab*solv"ing power} at -273[deg] . . . as, na["i]ve.
      [1913 Webster]

Absolver \Ab*solv"er\, n.
   See {Absolve}.
   [1913 Webster]

0 \0\ adj.
   1. indicating the absence of any or all units

   Syn: zero
        [WordNet 1.5 +PJC]
'''


class PrepareText(unittest.TestCase):
    def entries(self, text):
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder, "gcide.dict.dz")
            path.write_bytes(gzip.compress(text.encode()))
            return dict(prepare_text.gcide_entries(path))

    def test_an_entry_becomes_one_clean_line_without_wordnet(self):
        self.assertEqual(self.entries(GCIDE), {"Absolve": (
            "Absolve: To set free, or release, as from some obligation, debt, or responsibility. "
            '"Halifax was absolved by a majority of fourteen." '
            "Absolving power at -273 degrees . . . as, naive.")})

    def test_a_headword_has_one_part_whatever_its_case(self):
        # Known answers: crc32 is the same everywhere, and the embedded model was trained on this split.
        self.assertEqual(prepare_text.part_of("Dog"), prepare_text.part_of("dog"))
        parts = [prepare_text.part_of(f"word{i}") for i in range(4000)]
        self.assertEqual([parts.count(p) for p in ("test", "calibration", "train")], [89, 112, 3799])

    def test_a_missing_package_is_named_with_its_remedy(self):
        with tempfile.TemporaryDirectory() as folder:
            run = subprocess.run([sys.executable, TOOLS / "prepare_text.py", "--gcide", "/nowhere/gcide.dict.dz",
                                  pathlib.Path(folder, "text")], capture_output=True, text=True)
            self.assertNotEqual(run.returncode, 0)
            self.assertIn("apt-get install", run.stderr)
            self.assertFalse(pathlib.Path(folder, "text").exists())


if __name__ == "__main__":
    unittest.main()
