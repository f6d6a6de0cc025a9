// Refining rounded weights: coordinate descent with annealing (docs/explanation/algorithm.md, "Refinement").
#pragma once

#include <cstdint>

namespace tilepress {

struct Refinement {
    int64_t n, k;
    const float* weight;   // [n, k]
    const float* steps;    // [n], weight_scale
    const int64_t* order;  // [k]: columns in the order they are visited in, which is that of hessian and rate
    const float* hessian;  // [k, k], symmetric
    const float* rate;     // [k]: what a bit is worth, in units of weight_scale^2, times row_rate
    const float* lengths;  // [1 or ceil(n / 128), kMagnitudes]: bits of each magnitude with its sign
    bool one_table;        // for all rows, not one for each 128
    // Of the rows of a block, or null where rows are independent.
    const int64_t*
        row_order;          // [n]: rows of each block in the order they are visited in, which is that of the next two
    const float* coupling;  // [n, kRowsOfABlock]: by row i, how much of its error row r makes up for; [i][i] is 1
    const float* row_rate;  // [n]
    const float* noise;     // [sweeps]: width of the noise in units of rate; none at 0, where no sweep raises the cost
    int sweeps;
    int8_t* integers;  // [n, k], |q| <= 127, refined in place
};

// Blocks of rows are independent, and no operation is contracted or reordered: the integers are the same for any number
// of threads and any instruction set. `order` and `row_order` as in Rounding; floats may be anything.
void refine_weights(const Refinement& refinement, int threads);

}  // namespace tilepress
