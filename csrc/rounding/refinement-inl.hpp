// Refining the integers of a block of rows, in vectors of rows and of columns, without contraction: every target gives
// the same bits. After rounding-inl.hpp, whose vectors it takes.
#pragma once

#include <cstring>

#include "rounding/rounding-inl.hpp"

namespace tilepress::TILEPRESS_TARGET {
namespace {

typedef uint32_t RowBits __attribute__((vector_size(4 * kRowLanes)));

constexpr int kBlockRows = static_cast<int>(kRowsOfABlock);
constexpr int kCopied = 128;         // columns of the Hessian: 16 KiB for 32 of its rows
constexpr float kWidest = 65535.0f;  // of the sum of two 16-bit numbers, from its mean

TILEPRESS_ALWAYS_INLINE Rows cost_at(Rows value, Rows integer, const float* lengths, Rows rate) {
    const RowInts index = __builtin_convertvector(integer < 0.0f ? -integer : integer, RowInts);
    Rows bits;
    for (int row = 0; row < kRowLanes; ++row) bits[row] = lengths[index[row]];
    const Rows error = value - integer;
    return error * error + bits * rate;
}

// The integer of least cost among the two around `value` and 0. The upper one is taken as `noise` dearer than it is;
// without noise `current` stays where none is better. Not-a-number counts as 127.
TILEPRESS_ALWAYS_INLINE Rows redecide(Rows value, Rows current, Rows rate, Rows noise, const float* lengths,
                                      bool noisy) {
    const Rows most = Rows{} + static_cast<float>(kMagnitudes - 1);
    value = value < most ? value : most;
    value = value > -most ? value : -most;
    Rows low = __builtin_convertvector(__builtin_convertvector(value, RowInts), Rows);
    low = low > value ? low - 1.0f : low;
    const Rows high = low < most ? low + 1.0f : low;
    const Rows cost_low = cost_at(value, low, lengths, rate), cost_high = cost_at(value, high, lengths, rate);
    const auto upper = cost_high - cost_low < noise;
    Rows chosen = upper ? high : low;
    Rows least = upper ? cost_high : cost_low;
    const Rows cost_zero = value * value + lengths[0] * rate;
    chosen = cost_zero < least ? Rows{} : chosen;
    if (noisy) return chosen;
    least = cost_zero < least ? cost_zero : least;
    return cost_at(value, current, lengths, rate) <= least ? current : chosen;
}

// A block of rows, in the order in which they are visited.
class BlockOfRows {
  public:
    // sums: [kRowsOfABlock, padded_columns(k)], the errors times the Hessian.
    BlockOfRows(const Refinement& refinement, int64_t first, int64_t last, float* sums)
        : refinement_(refinement),
          first_(first),
          rows_(static_cast<int>(last - first)),
          stride_(padded_columns(refinement.k)),
          sums_(sums),
          lengths_(refinement.lengths + (refinement.one_table ? 0 : first / kRowsOfATable * kMagnitudes)) {
        std::memset(current_, 0, sizeof current_);
        for (int row = 0; row < kBlockRows; ++row) {
            row_rate_[row] = row < rows_ && refinement.row_rate != nullptr ? refinement.row_rate[first + row] : 1.0f;
            random_[row] = 0x9E3779B9u * static_cast<uint32_t>(row + 1);
        }
    }

    void run() {
        std::memset(sums_, 0, static_cast<size_t>(rows_ * stride_) * sizeof(float));
        for (int64_t begin = 0; begin < refinement_.k; begin += kBlock) {
            start(begin);
            add_changes(begin);
        }
        for (int sweep = 0; sweep < refinement_.sweeps; ++sweep) {
            for (int64_t begin = 0; begin < refinement_.k; begin += kBlock) {
                visit(begin, refinement_.noise[sweep]);
                add_changes(begin);
            }
        }
    }

  private:
    int columns_from(int64_t begin) const {
        return static_cast<int>(refinement_.k - begin < kBlock ? refinement_.k - begin : kBlock);
    }
    int64_t row_at(int row) const {
        return refinement_.row_order == nullptr ? first_ + row : refinement_.row_order[first_ + row];
    }

    // Notes the errors of a block of columns as changes.
    void start(int64_t begin) {
        for (int row = 0; row < rows_; ++row) {
            const int64_t at = row_at(row);
            counts_[row] = columns_from(begin);
            for (int c = 0; c < counts_[row]; ++c) {
                const int64_t place = at * refinement_.k + refinement_.order[begin + c];
                changes_[row][c] = {c, static_cast<float>(refinement_.integers[place]) -
                                           refinement_.weight[place] / refinement_.steps[at]};
            }
        }
    }

    // Decides all weights of a block of columns anew and notes the changes.
    void visit(int64_t begin, float noise) {
        const int columns = columns_from(begin);
        for (int c = 0; c < columns; ++c) {
            const float* const spread = refinement_.hessian + (begin + c) * refinement_.k + begin;
            std::memcpy(spread_[c], spread, static_cast<size_t>(columns) * sizeof(float));
        }
        std::memset(local_, 0, sizeof local_);
        for (int row = 0; row < rows_; ++row) {
            counts_[row] = 0;
            for (int c = 0; c < columns; ++c) local_[c][row] = sums_[row * stride_ + begin + c];
        }
        for (int c = 0; c < columns; ++c) visit_column(begin, c, columns, noise);
    }

    void visit_column(int64_t begin, int c, int columns, float noise) {
        const float diagonal = spread_[c][c], inverse = 1.0f / diagonal, rate = refinement_.rate[begin + c];
        const int64_t column = refinement_.order[begin + c];
        for (int row = 0; row < rows_; ++row) {
            current_[row] = static_cast<float>(refinement_.integers[row_at(row) * refinement_.k + column]);
        }
        couple(local_[c]);
        for (int part = 0; part < rows_; part += kRowLanes) {
            const Rows rates = load_rows(row_rate_ + part) * rate;
            const Rows noises = draw(part) * (rates * (noise / kWidest));
            for (int from = 0; from < kRowLanes;) {
                const Rows now = load_rows(current_ + part);
                const Rows value = now - load_rows(gradient_ + part) * inverse;
                const Rows chosen = redecide(value, now, rates, noises, lengths_, noise > 0.0f);
                while (from < kRowLanes && (part + from >= rows_ || chosen[from] == now[from])) ++from;
                if (from == kRowLanes) break;
                change(begin, part + from, c, columns, chosen[from] - now[from], diagonal);
                ++from;
            }
        }
    }

    // gradient_[r] = Σ_i coupling[i][r] · sums[i].
    void couple(const float* sums) {
        if (refinement_.coupling == nullptr) {
            std::memcpy(gradient_, sums, sizeof gradient_);
            return;
        }
        Rows totals[kBlockRows / kRowLanes] = {};
        for (int i = 0; i < rows_; ++i) {
            const float* const coupling = refinement_.coupling + (first_ + i) * kRowsOfABlock;
            for (int part = 0; part < kBlockRows / kRowLanes; ++part) {
                totals[part] += sums[i] * load_rows(coupling + part * kRowLanes);
            }
        }
        for (int part = 0; part < kBlockRows / kRowLanes; ++part) {
            store_rows(totals[part], gradient_ + part * kRowLanes);
        }
    }

    // Changes one integer: what it means for the rows behind and for the columns behind of the block.
    void change(int64_t begin, int row, int c, int columns, float by, float diagonal) {
        current_[row] += by;
        refinement_.integers[row_at(row) * refinement_.k + refinement_.order[begin + c]] =
            static_cast<int8_t>(current_[row]);
        changes_[row][counts_[row]++] = {c, by};
        for (int later = c + 1; later < columns; ++later) local_[later][row] += by * spread_[c][later];
        if (refinement_.coupling == nullptr) return;
        const float error = by * diagonal;
        const float* const coupling = refinement_.coupling + (first_ + row) * kRowsOfABlock;
        for (int part = row / kRowLanes * kRowLanes; part < kBlockRows; part += kRowLanes) {
            store_rows(load_rows(gradient_ + part) + error * load_rows(coupling + part), gradient_ + part);
        }
    }

    // Triangular noise of some rows, from -kWidest to kWidest (xorshift; Marsaglia 2003).
    Rows draw(int part) {
        RowBits bits;
        std::memcpy(&bits, random_ + part, sizeof bits);
        bits ^= bits << 13;
        bits ^= bits >> 17;
        bits ^= bits << 5;
        std::memcpy(random_ + part, &bits, sizeof bits);
        const RowInts sum = __builtin_convertvector((bits & 0xFFFFu) + (bits >> 16), RowInts) - 65535;
        return __builtin_convertvector(sum, Rows);
    }

    // Adds what changed in a block of columns, times their rows of the Hessian, to the sums of all columns.
    void add_changes(int64_t begin) {
        const int columns = columns_from(begin);
        for (int64_t to = 0; to < stride_; to += kCopied) {
            const int64_t left = refinement_.k - to < kCopied ? refinement_.k - to : kCopied;
            const int64_t end = stride_ - to < kCopied ? stride_ - to : kCopied;
            // A copy, for rows of the matrix that lie 2^n bytes apart push each other out of the caches.
            for (int c = 0; c < columns; ++c) {
                std::memcpy(copy_[c], refinement_.hessian + (begin + c) * refinement_.k + to,
                            static_cast<size_t>(left) * sizeof(float));
                std::memset(copy_[c] + left, 0, static_cast<size_t>(end - left) * sizeof(float));
            }
            for (int row = 0; row < rows_; ++row) {
                if (counts_[row] == 0) continue;
                for (int64_t at = 0; at < end; at += kSummedTogether) add_row(row, at, sums_ + row * stride_ + to + at);
            }
        }
    }

    void add_row(int row, int64_t at, float* to) const {
        constexpr int kParts = kSummedTogether / kRowLanes;
        Rows totals[kParts];
        for (int part = 0; part < kParts; ++part) totals[part] = load_rows(to + part * kRowLanes);
        for (int i = 0; i < counts_[row]; ++i) {
            const auto [c, by] = changes_[row][i];
            const float* const hessian = copy_[c] + at;
            for (int part = 0; part < kParts; ++part) totals[part] += by * load_rows(hessian + part * kRowLanes);
        }
        for (int part = 0; part < kParts; ++part) store_rows(totals[part], to + part * kRowLanes);
    }

    struct Change {
        int column;  // of the block
        float by;
    };

    const Refinement& refinement_;
    const int64_t first_;
    const int rows_;
    const int64_t stride_;
    float* const sums_;
    const float* const lengths_;
    int counts_[kBlockRows];
    Change changes_[kBlockRows][kBlock];
    alignas(64) float spread_[kBlock][kBlock];
    alignas(64) float local_[kBlock][kBlockRows];
    alignas(64) float copy_[kBlock][kCopied];
    alignas(64) float current_[kBlockRows];
    alignas(64) float gradient_[kBlockRows];
    alignas(64) float row_rate_[kBlockRows];
    alignas(64) uint32_t random_[kBlockRows];
};

void refine_rows(const Refinement& refinement, int64_t first, int64_t last, float* sums) {
    BlockOfRows(refinement, first, last, sums).run();
}

}  // namespace
}  // namespace tilepress::TILEPRESS_TARGET
