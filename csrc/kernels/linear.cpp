#include "kernels/linear.hpp"

#include <algorithm>
#include <atomic>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "kernels/activations.hpp"
#include "simd/isa.hpp"
#include "simd/kernels.hpp"
#include "threads/tasks.hpp"
#include "tiles/first_error.hpp"

namespace tilepress {

namespace {

// One call. A task multiplies one chunk of tokens by one row of tiles, or by a slice of it where rows are too few to
// occupy the threads; whoever finishes the last slice of a row adds them up. Integer sums do not depend on the order.
class Call {
  public:
    Call(const TensorView& weight, const LinearArguments& arguments, int threads)
        : weight_(weight),
          geometry_(weight.geometry),
          arguments_(arguments),
          kernels_(isa().kernels),
          activations_(geometry_, arguments, threads),
          rows_(activations_.chunks() * geometry_.n_index),
          slices_(threads == 1 ? 1 : std::min(geometry_.k_index, (kTasksAThread * threads + rows_ - 1) / rows_)) {
        if (slices_ > 1) {
            slice_sums_.resize(static_cast<size_t>(rows_ * slices_ * row_sums(arguments.tokens)));
            slices_left_ = std::make_unique<std::atomic<int64_t>[]>(static_cast<size_t>(rows_));
            for (int64_t row = 0; row < rows_; ++row) slices_left_[row].store(slices_, std::memory_order_relaxed);
        }
        parallel_for(rows_ * slices_, threads, [this](int64_t task) { run(task / slices_, task % slices_); });
        error_.raise();
    }

  private:
    static constexpr int64_t kTasksAThread = 8;
    static constexpr uint64_t kAhead = 4096;  // bytes; with 0 a seventh slower, with up to 20 K no faster (Zen 4)

    int64_t row_sums(int64_t tokens) const {
        return kFractalRows * geometry_.tiling_n * std::min(tokens, QuantizedActivations::kChunk);
    }

    void run(int64_t row, int64_t slice) {
        if (slices_ == 1) {
            static thread_local std::vector<int32_t> sums;
            sums.assign(static_cast<size_t>(row_sums(arguments_.tokens)), 0);
            multiply(row, 0, geometry_.k_index, sums.data());
            return write(row, sums.data());
        }
        const int64_t size = row_sums(arguments_.tokens);
        int32_t* const of_row = slice_sums_.data() + row * slices_ * size;
        multiply(row, slice * geometry_.k_index / slices_, (slice + 1) * geometry_.k_index / slices_,
                 of_row + slice * size);
        if (slices_left_[row].fetch_sub(1, std::memory_order_acq_rel) > 1) return;
        for (int64_t other = 1; other < slices_; ++other) {
            const int32_t* const sums = of_row + other * size;
            for (int64_t s = 0; s < size; ++s) {
                of_row[s] = static_cast<int32_t>(static_cast<uint32_t>(of_row[s]) + static_cast<uint32_t>(sums[s]));
            }
        }
        write(row, of_row);
    }

    void multiply(int64_t row, int64_t begin, int64_t end, int32_t* sums) {
        const int64_t chunk = row / geometry_.n_index, i = row % geometry_.n_index;
        TileView tile;
        for (int64_t j = begin; j < end; ++j) {
            if (const TileError bad = weight_.parse(i, j, tile); bad != TileError::none) {
                return error_.header(geometry_, i, j, bad);
            }
            // The next tile follows in memory and will be about as long; its beginning was asked for with this one.
            const uint8_t* const ahead = weight_.weight + tile.offset + tile.bytes + kAhead;
            const int level = kernels_.multiply(tile, workspace(), activations_.block(chunk, j), ahead, sums);
            if (level >= 0) return error_.escapes(geometry_, i, j, level);
        }
    }

    // Sums are laid out [strips][tokens][16 rows], as Kernels::multiply leaves them.
    void write(int64_t row, const int32_t* sums) {
        const int64_t chunk = row / geometry_.n_index, tile_rows = geometry_.tiling_n * kFractalRows;
        const int64_t begin = row % geometry_.n_index * tile_rows, end = std::min(begin + tile_rows, geometry_.n);
        const int64_t first_token = chunk * QuantizedActivations::kChunk, tokens = activations_.chunk_tokens(chunk);
        for (int64_t channel = begin; channel < end; channel += kFractalRows) {
            const OutputScales scales{
                .deq_scale = arguments_.deq_scale + channel,
                .quant_bias = arguments_.quant_bias + channel,
                .weight_sums = arguments_.weight_sums == nullptr ? nullptr : arguments_.weight_sums + channel,
                .input_offset = arguments_.input_offset,
            };
            kernels_.scale_sums(sums, scales, activations_.scales(first_token), tokens,
                                static_cast<int>(std::min<int64_t>(kFractalRows, end - channel)), arguments_.type,
                                arguments_.y, first_token * arguments_.y_stride + channel, arguments_.y_stride);
            sums += kFractalRows * tokens;
        }
    }

    const TensorView& weight_;
    const Geometry& geometry_;
    const LinearArguments& arguments_;
    const Kernels& kernels_;
    const QuantizedActivations activations_;
    const int64_t rows_, slices_;  // rows of tiles times chunks of tokens; tasks a row
    std::vector<int32_t> slice_sums_;
    std::unique_ptr<std::atomic<int64_t>[]> slices_left_;
    FirstError error_;
};

}  // namespace

void check_input_offset(const LinearArguments& arguments) {
    const int offset = arguments.input_offset;
    if (offset == kSymmetric && arguments.weight_sums != nullptr) return;
    if (offset < -128 || offset > 127) {
        throw std::invalid_argument("input_offset is " + std::to_string(offset) + ", outside -128 to 127");
    }
}

void linear(const TensorView& weight, const LinearArguments& arguments, int threads) {
    if (arguments.tokens == 0) return;
    // Waking a thread takes as long as this many products.
    constexpr double kWorthSharing = 1e5;
    const double products = static_cast<double>(arguments.tokens) * static_cast<double>(weight.geometry.n) *
                            static_cast<double>(weight.geometry.k);
    Call(weight, arguments, products < kWorthSharing ? 1 : threads);
}

}  // namespace tilepress
