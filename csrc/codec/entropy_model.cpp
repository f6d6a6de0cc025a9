#include "codec/entropy_model.hpp"

#include <algorithm>
#include <bit>
#include <mutex>

#include "codec/entropy_tables.hpp"
#include "threads/tasks.hpp"

namespace tilepress {

namespace {

// Fixed point of weights, each 1 over a mean square.
constexpr int kWeightBits = 24;
constexpr int32_t kFurthestLevel = 100;
// A matrix as large takes eighths of an octave, where rows and columns tell them apart; smaller ones take quarters.
constexpr int64_t kFineFrom = 1 << 22;
// 2^31 times the powers of 2 between which a logarithm rounds to a multiple of 1/2 or 1/4.
constexpr uint32_t kHalves[] = {2553802834, 3611622603};
constexpr uint32_t kQuarters[] = {2341847524, 2784941738, 3311872530, 3938502376};
// 2^24 times 2^(i / 4).
constexpr uint32_t kRoots[] = {16777216, 19951585, 23726566, 28215802};

constexpr int64_t kRowsTogether = 32, kColumnsTogether = 512;

int64_t tasks_of(int64_t size, int64_t together) { return (size + together - 1) / together; }

// Scales are logarithms of mean squares, `steps` (2 or 4) to a factor of 2.
class Levels {
  public:
    explicit Levels(int steps) : steps_(steps) {}

    // Of sum / 2^scale / count; as if one value were 1 where all are 0.
    int32_t level(uint64_t sum, int64_t count, int scale) const {
        using Wide = unsigned __int128;
        const Wide divisor = static_cast<Wide>(count);
        const Wide ratio = std::max((static_cast<Wide>(sum) << (32 - scale)) / divisor, (Wide{1} << 32) / divisor);
        const uint64_t high = static_cast<uint64_t>(ratio >> 64);
        const int exponent = high > 0 ? 63 + std::bit_width(high) : std::bit_width(static_cast<uint64_t>(ratio)) - 1;
        // Shifted by fewer places than the ratio has room for: it is below 2^97.
        const uint32_t mantissa =
            static_cast<uint32_t>(exponent > 31 ? ratio >> (exponent - 31) : ratio << (31 - exponent));
        int32_t level = steps_ * (exponent - 32);
        for (int i = 0; i < steps_; ++i) level += mantissa >= (steps_ == 2 ? kHalves : kQuarters)[i];
        return std::clamp(level, -kFurthestLevel, kFurthestLevel);
    }

    // 2^24 over the mean square of a level, which counts as 1/16 where it is less.
    uint32_t weight(int32_t level) const {
        const int32_t negative = -std::max(level, -4 * steps_);
        const int32_t whole = negative >= 0 ? negative / steps_ : -((steps_ - 1 - negative) / steps_);
        const uint32_t root = kRoots[(negative - whole * steps_) * (4 / steps_)];
        return whole >= 0 ? root << whole : root >> -whole;
    }

  private:
    int steps_;
};

uint32_t square(int8_t value) { return static_cast<uint32_t>(value * value); }

std::vector<int32_t> plain_rows(const int8_t* matrix, int64_t n, int64_t k, const Levels& levels, int threads) {
    std::vector<int32_t> rows(static_cast<size_t>(n));
    parallel_for_throwing(n, threads, [&](int64_t i) {
        uint64_t sum = 0;
        for (int64_t begin = 0; begin < k; begin += 1 << 16) {
            uint32_t part = 0;  // 2^16 squares of at most 2^14
            for (int64_t j = begin; j < std::min<int64_t>(begin + (1 << 16), k); ++j) {
                part += square(matrix[i * k + j]);
            }
            sum += part;
        }
        rows[static_cast<size_t>(i)] = levels.level(sum, k, 0);
    });
    return rows;
}

// Sums wrap: what is decided then is poor, but the same everywhere.
std::vector<int32_t> weighted_columns(const int8_t* matrix, int64_t n, int64_t k, const std::vector<int32_t>& rows,
                                      const Levels& levels, int threads) {
    std::vector<int32_t> columns(static_cast<size_t>(k));
    parallel_for_throwing(tasks_of(k, kColumnsTogether), threads, [&](int64_t task) {
        const int64_t left = task * kColumnsTogether;
        const int64_t width = std::min(kColumnsTogether, k - left);
        uint64_t sums[kColumnsTogether] = {};
        for (int64_t i = 0; i < n; ++i) {
            const uint32_t weight = levels.weight(rows[static_cast<size_t>(i)]);
            const int8_t* const from = matrix + i * k + left;
            for (int64_t j = 0; j < width; ++j) sums[j] += uint64_t{square(from[j])} * weight;
        }
        for (int64_t j = 0; j < width; ++j) {
            columns[static_cast<size_t>(left + j)] = levels.level(sums[j], n, kWeightBits);
        }
    });
    return columns;
}

std::vector<int32_t> weighted_rows(const int8_t* matrix, int64_t n, int64_t k, const std::vector<int32_t>& columns,
                                   const Levels& levels, int threads) {
    std::vector<uint32_t> weights;
    for (const int32_t column : columns) weights.push_back(levels.weight(column));
    std::vector<int32_t> rows(static_cast<size_t>(n));
    parallel_for_throwing(n, threads, [&](int64_t i) {
        uint64_t sum = 0;
        for (int64_t j = 0; j < k; ++j) sum += uint64_t{square(matrix[i * k + j])} * weights[static_cast<size_t>(j)];
        rows[static_cast<size_t>(i)] = levels.level(sum, k, kWeightBits);
    });
    return rows;
}

// How often each magnitude occurs at each level of rows + columns >> shift, from `lowest` on.
std::vector<MagnitudeCounts> count_levels(const int8_t* matrix, int64_t n, int64_t k, const std::vector<int32_t>& rows,
                                          const std::vector<int32_t>& columns, int shift, int32_t lowest, int levels,
                                          int threads) {
    std::vector<MagnitudeCounts> counts(static_cast<size_t>(levels));
    std::mutex mutex;
    // As many tasks for any size: each has tables of its own.
    const int64_t together = std::max(kRowsTogether, tasks_of(n, 64));
    parallel_for_throwing(tasks_of(n, together), threads, [&](int64_t task) {
        std::vector<std::array<uint64_t, 256>> own(static_cast<size_t>(levels));
        const int64_t end = std::min(n, (task + 1) * together);
        for (int64_t i = task * together; i < end; ++i) {
            for (int64_t j = 0; j < k; ++j) {
                const int32_t level = (rows[static_cast<size_t>(i)] + columns[static_cast<size_t>(j)]) >> shift;
                ++own[static_cast<size_t>(level - lowest)][static_cast<uint8_t>(matrix[i * k + j])];
            }
        }
        std::lock_guard lock(mutex);
        for (size_t level = 0; level < own.size(); ++level) {
            for (int value = 0; value < 256; ++value) {
                const size_t magnitude = static_cast<size_t>(value <= 128 ? value : 256 - value);
                counts[level][magnitude] += own[level][static_cast<size_t>(value)];
            }
        }
    });
    return counts;
}

// The same for levels of twice the size.
std::vector<MagnitudeCounts> halve(const std::vector<MagnitudeCounts>& counts, int32_t lowest) {
    const int32_t first = lowest >> 1, last = (lowest + static_cast<int32_t>(counts.size()) - 1) >> 1;
    std::vector<MagnitudeCounts> halved(static_cast<size_t>(last - first + 1));
    for (size_t i = 0; i < counts.size(); ++i) {
        MagnitudeCounts& into = halved[static_cast<size_t>(((lowest + static_cast<int32_t>(i)) >> 1) - first)];
        for (size_t magnitude = 0; magnitude < into.size(); ++magnitude) into[magnitude] += counts[i][magnitude];
    }
    return halved;
}

}  // namespace

EntropyModel choose_entropy_model(const int8_t* matrix, int64_t n, int64_t k, int threads) {
    const int steps = n * k >= kFineFrom ? 4 : 2;
    const Levels levels(steps);
    std::vector<int32_t> rows = plain_rows(matrix, n, k, levels, threads);
    std::vector<int32_t> columns = weighted_columns(matrix, n, k, rows, levels, threads);
    rows = weighted_rows(matrix, n, k, columns, levels, threads);

    int shift = steps / 2 - 1;
    const auto [row_low, row_high] = std::minmax_element(rows.begin(), rows.end());
    const auto [column_low, column_high] = std::minmax_element(columns.begin(), columns.end());
    int32_t lowest = (*row_low + *column_low) >> shift;
    const int32_t highest = (*row_high + *column_high) >> shift;
    const std::vector<MagnitudeCounts> counts =
        count_levels(matrix, n, k, rows, columns, shift, lowest, highest - lowest + 1, threads);
    // Fewer classes of twice the size pay where the matrix is small beside the tables.
    MergedClasses merged = merge_ends(counts), coarse = merge_ends(halve(counts, lowest));
    if (coarse.cost < merged.cost) {
        merged = std::move(coarse);
        ++shift;
        lowest >>= 1;
    }
    for (int32_t& row : rows) row -= (lowest + merged.merged_below) * (1 << shift);
    return {{shift, std::move(merged.tables), std::move(columns)}, std::move(rows)};
}

}  // namespace tilepress
