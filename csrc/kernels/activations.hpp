// Activations quantized to int8, laid out for the tiles that will be multiplied by them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "kernels/linear.hpp"
#include "simd/kernels.hpp"

namespace tilepress {

// Tokens come in chunks of up to kChunk: what a tile's multiplication reads of a chunk, and the sums it leaves, fit the
// second-level cache. Within a chunk, each tile column has its own [tokens, columns] block.
class QuantizedActivations {
  public:
    static constexpr int64_t kChunk = 256;

    // Quantizes arguments.x on up to `threads` threads.
    QuantizedActivations(const Geometry& geometry, const LinearArguments& arguments, int threads);

    int64_t chunks() const { return (tokens_ + kChunk - 1) / kChunk; }
    int chunk_tokens(int64_t chunk) const {
        const int64_t left = tokens_ - chunk * kChunk;
        return static_cast<int>(left < kChunk ? left : kChunk);
    }

    // What tile column j takes of a chunk.
    Activations block(int64_t chunk, int64_t j) const;

    // The scales of `token` and of those after it.
    const TokenScale* scales(int64_t token) const { return scales_.data() + token; }

  private:
    TokenScale choose_scale(const LinearArguments& arguments, int64_t token, float& scale) const;
    void quantize(const LinearArguments& arguments, int64_t token);

    int8_t* block_values(int64_t chunk, int64_t j) {
        return values_.data() + chunk * kChunk * columns_ + chunk_tokens(chunk) * j * tile_columns_;
    }
    int64_t block_start(int64_t chunk, int64_t j) const {
        return chunk * kChunk * column_tiles_ + j * chunk_tokens(chunk);
    }
    int64_t width(int64_t j) const {
        const int64_t left = columns_ - j * tile_columns_;
        return left < tile_columns_ ? left : tile_columns_;
    }

    const Kernels& kernels_;
    int64_t tokens_, k_;
    int64_t columns_, tile_columns_, column_tiles_;  // columns with padding, of a tile; tiles across
    std::vector<int8_t> values_;
    std::vector<int32_t> totals_, largest_;  // for each token of each block
    std::vector<TokenScale> scales_;
};

}  // namespace tilepress
