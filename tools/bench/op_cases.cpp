// The op cases live with the tests; this program compiles the same sources, without GoogleTest.
#include "tests/op_cases.cpp"

#include "tests/op_cases_elementwise.cpp"
#include "tests/op_cases_gradient.cpp"
#include "tests/op_cases_matmul.cpp"
#include "tests/op_cases_model.cpp"
#include "tests/op_cases_move.cpp"
#include "tests/op_cases_random.cpp"
#include "tests/op_cases_reduce.cpp"
#include "tests/op_cases_rowwise.cpp"
