#!/usr/bin/env python3
"""The type stubs name what the package has, with the same arguments."""
import ast
import inspect
import unittest

import support

import cbq
import cbq._core

PACKAGE = support.ROOT / "tools/python/cbq"


def arguments(node):
    a = node.args
    return [x.arg for x in a.posonlyargs + a.args], [x.arg for x in a.kwonlyargs]


class Stubs(unittest.TestCase):
    def definitions(self, file):
        return ast.parse((PACKAGE / file).read_text()).body

    def test_functions_have_the_arguments_of_the_stub(self):
        stubs = {n.name: n for n in self.definitions("__init__.pyi") if isinstance(n, ast.FunctionDef)}
        public = {n for n in cbq.__all__ if inspect.isfunction(getattr(cbq, n))} - {"register_rounding", "check_rounding"}
        self.assertEqual(set(stubs), public)
        for name, stub in stubs.items():
            parameters = inspect.signature(getattr(cbq, name)).parameters.values()
            found = ([p.name for p in parameters if p.kind == p.POSITIONAL_OR_KEYWORD],
                     [p.name for p in parameters if p.kind == p.KEYWORD_ONLY])
            self.assertEqual(arguments(stub), found, name)
            defaults = [p.default for p in parameters if p.default is not p.empty and not callable(p.default)]
            written = [ast.literal_eval(d) for d in stub.args.defaults + stub.args.kw_defaults
                       if isinstance(d, ast.Constant) and d.value is not ... or isinstance(d, ast.Tuple)]
            self.assertEqual(written, defaults, name)

    def test_classes_have_the_members_of_the_stub(self):
        classes = {n.name: n for n in self.definitions("_core.pyi")
                   if isinstance(n, ast.ClassDef) and not n.name.startswith("_")}
        self.assertGreater(len(classes), 6)
        for name, stub in classes.items():
            real = getattr(cbq._core, name)
            written = {n.name for n in stub.body if isinstance(n, ast.FunctionDef)}
            public = {m for m in vars(real) if not m.startswith("_") and name != "NonFiniteError"}
            self.assertEqual({m for m in written if not m.startswith("_")}, public, name)
            for member in written:
                self.assertTrue(hasattr(real, member), f"{name}.{member}")
        for name in cbq.__all__:
            self.assertTrue(hasattr(cbq, name), name)
            self.assertTrue((getattr(cbq, name).__doc__ or "").strip(), f"{name} has no docstring")


if __name__ == "__main__":
    unittest.main()
