// Rounding a weight matrix with error feedback (docs/explanation/algorithm.md, "Rounding").
#pragma once

#include <cstdint>

namespace tilepress {

constexpr int kMagnitudes = 128;        // |q| from 0 to 127
constexpr int64_t kRowsOfATable = 128;  // rows that share code lengths where not all do
constexpr int64_t kRowsOfABlock = 128;  // rows whose errors reach each other

struct Rounding {
    int64_t n, k;
    const float* weight;    // [n, k]
    const float* steps;     // [n], weight_scale
    const int64_t* order;   // [k]: columns in the order they are rounded in, which is that of feedback and rate
    const float* feedback;  // [k, k]: how much of column j's error goes to column k; read above the diagonal only
    const float* rate;      // [k]: what a bit is worth, in units of weight_scale^2
    const float* lengths;   // [1 or ceil(n / 128), kMagnitudes]: bits of each magnitude with its sign
    bool one_table;         // for all rows, not one for each 128
    // How errors spread over the rows of a block, or null where rows are independent.
    const int64_t* row_order;   // [n]: rows of each block in the order they are rounded in, which is that of the next
    const float* row_feedback;  // [n, kRowsOfABlock]: how much of row i's error goes to row r; read for i < r only
    int8_t* out;                // [n, k]
    float* errors;              // [n, k] or null: what spreads over the columns, in the order of the columns
};

// Blocks of rows are independent, and no operation is contracted or reordered: the integers are the same for any number
// of threads and any instruction set. Every value of `order` must be a column, every one of `row_order` a row of its
// block; floats may be anything.
void round_weights(const Rounding& rounding, int threads);

}  // namespace tilepress
