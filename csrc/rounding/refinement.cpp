#include "rounding/refinement.hpp"

#include <algorithm>
#include <memory>

#include "rounding/rounding.hpp"
#include "simd/isa.hpp"
#include "simd/kernels.hpp"
#include "threads/tasks.hpp"

namespace tilepress {

void refine_weights(const Refinement& refinement, int threads) {
    const int64_t n = refinement.n, columns = padded_columns(refinement.k);
    const int64_t blocks = (n - 1) / kRowsOfABlock + 1;
    // For all tasks at once: tasks must not throw.
    const std::unique_ptr<float[]> sums(new float[static_cast<size_t>(blocks * kRowsOfABlock * columns)]);
    auto* const refine_rows = isa().kernels.refine_rows;
    parallel_for(blocks, threads, [&](int64_t block) {
        const int64_t first = block * kRowsOfABlock;
        refine_rows(refinement, first, std::min(first + kRowsOfABlock, n), sums.get() + first * columns);
    });
}

}  // namespace tilepress
