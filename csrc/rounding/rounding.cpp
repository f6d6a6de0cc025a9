#include "rounding/rounding.hpp"

#include <algorithm>
#include <memory>

#include "simd/isa.hpp"
#include "simd/kernels.hpp"
#include "threads/tasks.hpp"

namespace tilepress {

namespace {

constexpr int64_t round_up(int64_t value, int64_t multiple) { return (value + multiple - 1) / multiple * multiple; }

// Rows of one task. Many share what is read of the feedback matrix; few keep all threads busy to the end.
int64_t rows_of_a_task(const Rounding& rounding, int threads) {
    if (rounding.row_order != nullptr) return kRowsOfABlock;
    const int64_t fair = round_up((rounding.n - 1) / (4 * std::max(threads, 1)) + 1, kRoundedTogether);
    return std::min<int64_t>(fair, kRowsOfABlock);
}

}  // namespace

void round_weights(const Rounding& rounding, int threads) {
    const int64_t n = rounding.n, columns = round_up(rounding.k, kFedTogether),
                  rows = rows_of_a_task(rounding, threads);
    // For all tasks at once: tasks must not throw.
    const std::unique_ptr<float[]> remaining(new float[static_cast<size_t>(round_up(n, kRoundedTogether) * columns)]);
    auto* const round_rows = isa().kernels.round_rows;
    parallel_for((n - 1) / rows + 1, threads, [&](int64_t task) {
        const int64_t first = task * rows;
        round_rows(rounding, first, std::min(first + rows, n), remaining.get() + first * columns);
    });
}

}  // namespace tilepress
