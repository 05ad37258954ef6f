#!/usr/bin/env python3
"""Tensors: numpy and DLPack share memory with them, both ways."""
import gc
import unittest
import weakref

import numpy

import cbq


def address(array):
    return array.__array_interface__["data"][0]


class Arrays(unittest.TestCase):
    def test_numpy_memory_is_shared_both_ways(self):
        for dtype in ("float64", "float32", "float16", "int32", "uint8"):
            array = numpy.arange(6).reshape(2, 3).astype(dtype)
            tensor = cbq.tensor(array)
            back = tensor.numpy()
            self.assertEqual((address(back), back.dtype, back.shape), (address(array), array.dtype, (2, 3)))
            back[1, 2] = 77
            self.assertEqual(array[1, 2], 77)
            self.assertEqual(tensor.shape, (2, 3))

    def test_dlpack_memory_is_shared_both_ways(self):
        class Foreign:  # an array of which only DLPack is known
            def __init__(self, array):
                self.array = array

            def __dlpack__(self, **options):
                return self.array.__dlpack__()

        array = numpy.arange(12, dtype="float32").reshape(3, 4)
        tensor = cbq.tensor(Foreign(array))
        there = numpy.from_dlpack(tensor)
        self.assertEqual(address(there), address(array))
        self.assertTrue(numpy.array_equal(there, array))
        self.assertEqual(tensor.__dlpack_device__(), (1, 0))

    def test_memory_lives_as_long_as_somebody_reads_it(self):
        class Array(numpy.ndarray):
            pass

        array = numpy.ones(1000, "float32").view(Array)
        gone = weakref.ref(array)
        tensor = cbq.tensor(array)
        view = tensor.numpy()
        there = numpy.from_dlpack(tensor)
        del array, tensor
        gc.collect()
        self.assertIsNotNone(gone())
        self.assertEqual(view.sum(), 1000)
        del view
        gc.collect()
        self.assertEqual(there.sum(), 1000)
        del there
        gc.collect()
        self.assertIsNone(gone(), "the array is kept after its last reader")

    def test_a_capsule_that_nobody_takes_gives_its_memory_back(self):
        class Array(numpy.ndarray):
            pass

        array = numpy.ones(10, "float32").view(Array)
        gone = weakref.ref(array)
        capsule = cbq.tensor(array).__dlpack__()
        del array
        self.assertIsNotNone(gone())
        del capsule
        gc.collect()
        self.assertIsNone(gone())

    def test_read_only_arrays_stay_so(self):
        array = numpy.zeros(3, "float32")
        array.setflags(write=False)
        tensor = cbq.tensor(array)
        self.assertFalse(tensor.numpy().flags.writeable)
        with self.assertRaisesRegex(BufferError, "read-only"):
            tensor.__dlpack__()
        self.assertEqual(numpy.from_dlpack(type("Copy", (), {
            "__dlpack__": lambda self, **o: tensor.__dlpack__(copy=True),
            "__dlpack_device__": lambda self: (1, 0)})()).tolist(), [0, 0, 0])

    def test_bf16_rounds_to_even_and_has_no_numpy_type(self):
        values = numpy.array([1.0, 1.00390625, 1.01171875, -2.5, 3.0e38], "float32")
        half = cbq.tensor(values).to("bf16")
        self.assertEqual((half.dtype, half.nbytes), ("bf16", 10))
        bits = values.view("uint32").astype("uint64")
        expected = (((bits + 0x7fff + ((bits >> 16) & 1)) >> 16) << 16).astype("uint32").view("float32")
        self.assertEqual(half.to("f32").numpy().tolist(), expected.tolist())
        with self.assertRaisesRegex(ValueError, "bf16.*DLPack"):
            half.numpy()

    def test_what_does_not_fit_is_refused_by_name(self):
        square = numpy.zeros((4, 4), "float32")
        for array, words in ((square.T[1:], "not contiguous"), (square[:, ::2], "not contiguous"),
                             (square.astype(">f4"), "byte order"), (square.astype("int64"), "<i8.*float32"),
                             (square.astype("complex64"), "<c8"), ([1.0], "expected a numpy array")):
            with self.assertRaisesRegex(ValueError, words):
                cbq.tensor(array)
        with self.assertRaisesRegex(ValueError, "dtype"):
            cbq.tensor(square).to("float128")

    def test_empty_and_scalar_arrays(self):
        self.assertEqual(cbq.tensor(numpy.zeros((0, 3), "float32")).numpy().shape, (0, 3))
        self.assertEqual(float(cbq.tensor(numpy.array(2.5)).numpy()), 2.5)


if __name__ == "__main__":
    unittest.main()
