// A linear of the decoder, compressed or of floats.
#pragma once

#include <cstdint>
#include <optional>

#include "kernels/linear.hpp"
#include "simd/float_type.hpp"
#include "tiles/tensor_view.hpp"

namespace tilepress {

struct Projection {
    int64_t n, k;
    std::optional<TensorView> tiles;  // none: of floats
    LinearArguments scales;           // where compressed: all but x, y and their sizes
    FloatType type;                   // where of floats, as all below
    const void* weight;               // [n, k]
    const float* bias;                // [n]; null for zeros
};

// Raises std::invalid_argument where the offset is outside -128 to 127.
Projection compressed_projection(const TensorView& tiles, const LinearArguments& scales);
Projection float_projection(FloatType type, const void* weight, const float* bias, int64_t n, int64_t k);

// y[t][r] = W[r] . x[t] + bias[r], token t's at y + t * stride. x [tokens, k]. The same bits for any number of threads
// and any tokens beside. Throws BitstreamError for damaged tiles.
void project(const Projection& projection, const float* x, int64_t tokens, float* y, int64_t stride, int threads);

}  // namespace tilepress
