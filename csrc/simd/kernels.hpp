// What is compiled once for each instruction set: decoding a tile and multiplying by it, decoding a block of the
// entropy-coded form, quantizing activations, scaling sums, rounding weights, and the rest of a decoder's layer.
#pragma once

#include <cstdint>

#include "rounding/refinement.hpp"
#include "rounding/rounding.hpp"
#include "simd/float_type.hpp"
#include "tiles/tile_view.hpp"

namespace tilepress {

// Buffers of one thread, for the largest tile there can be: no byte pattern asks for more. Vectors are stored and
// loaded whole, hence the slack.
struct Workspace {
    static constexpr int kSlack = 64;
    alignas(64) uint8_t levels[2][kMaxTileSymbols + kSlack];
    alignas(64) uint8_t symbols[kMaxTileSymbols];
    alignas(64) uint8_t rows[kMaxTileSymbols];  // a strip in row-major order
};

// Where a tile lies in a plain matrix, whose last row and column may come before the tile's.
struct Window {
    uint8_t* begin;  // row r begins at begin + r * stride
    int64_t stride;
    int rows, columns;
    bool stream;  // write past the caches: rows begin and end at cache lines, and nobody reads them soon
};

// Quantized activations in the columns of one tile.
struct Activations {
    const int8_t* values;   // [tokens, 32 * shape.c], zero where the matrix has no column
    const int32_t* totals;  // [tokens], sums of the above
    int tokens;
    int largest;  // magnitude of any of the values
};

// The sum of some quantized activations, and the largest magnitude among them.
struct QuantizedRow {
    int32_t total, largest;
};

// The least and the greatest of some activations and 0; not-a-number does not count.
struct FloatRange {
    float low, high;
};

// How one token was quantized: by the static scale and offset, or by its own scale, `ratio` times as large, and offset.
struct TokenScale {
    bool own;
    float ratio;
    int offset;
};

// The scales of the output channels that a call of scale_sums writes.
struct OutputScales {
    const float* deq_scale;
    const int32_t* quant_bias;
    const int32_t* weight_sums;  // of each row of the matrix; null where no token has a scale of its own
    int input_offset;            // the static one
};

// How keys and values are kept, a row for each token of a head. int8: [size] integers, then a float, the scale that
// they are multiplied by.
enum class CacheType { float32, float16, int8 };

constexpr int64_t row_bytes(CacheType type, int64_t size) {
    return type == CacheType::float32 ? 4 * size : type == CacheType::float16 ? 2 * size : size + 4;
}

// Queries of one head against some of its tokens: sums of values weighted by e^(score - maximum), the maxima of the
// scores, and the totals of the weights.
struct AttentionChunk {
    static constexpr int kTokens = 128;  // 32 KiB of keys and as much of values, for heads of 64 in float32

    const float* queries;  // [count, size], divided by sqrt(size)
    CacheType type;
    const uint8_t* keys;    // [tokens] rows
    const uint8_t* values;  // [tokens] rows
    float* out;             // [count, size]
    float* maxima;          // [count]
    float* totals;          // [count]
    int64_t count, size;    // size is a multiple of 8
    int tokens;             // from 1 to kTokens
};

// RMSNorm: x / sqrt(mean(x^2) + epsilon) * gain + bias.
struct Norm {
    const float* gain;  // [size]; null for none at all
    const float* bias;  // [size]; null for zeros
    float epsilon;
};

// Rows of a float matrix against some tokens.
struct FloatRows {
    FloatType type;
    const void* weight;  // [n, k]
    const float* bias;   // [n]; null for zeros
    int64_t k;
    const float* x;  // [tokens, k]
    int64_t tokens;
    float* y;  // [tokens, n]: token t's begin at y + t * stride
    int64_t stride;
};

// A block of the entropy-coded form (codec/entropy_format.hpp). Scales are shifted so that the class of row i and
// column j is what 11 bits above the lowest of clamp(rows[i] + columns[j], 0, top) say.
struct EntropyBlock {
    const uint32_t* slots;   // [classes][2048]: symbol | place from the symbol's first slot << 8 | frequency << 20
    const int32_t* rows;     // [n]
    const int32_t* columns;  // [k]
    int32_t top;             // 2048 * classes - 1
    int64_t n, k;
    const uint8_t* states;  // 32 of four bytes
    const uint8_t *escapes, *escapes_end;
    const uint8_t *words, *words_end;
};

// Rounding takes so many rows at a time, and feeds errors to so many columns at a time.
constexpr int kRoundedTogether = 16, kFedTogether = 8;

// Refining adds to so many columns at a time.
constexpr int kSummedTogether = 64;
constexpr int64_t padded_columns(int64_t k) { return (k + kSummedTogether - 1) / kSummedTogether * kSummedTogether; }

struct Kernels {
    // Fills the window with the tile's values. `ahead` says where bytes begin that are wanted next, as many as the tile
    // has; they need not exist. Returns -1, or the level that holds a number of escapes other than the count of the
    // next (what was written is then worthless).
    int (*decode)(const TileView& tile, Workspace& workspace, const Window& window, const uint8_t* ahead);

    // Decodes one strip, 0 <= strip < shape.r, to workspace.rows[16][32 * shape.c]. Returns -1 or a level, as decode
    // does for what this strip needs: the other strips' codes are not read.
    int (*decode_rows)(const TileView& tile, Workspace& workspace, int strip);

    // Fills matrix[n, k]. False where the codes do not end where they should: what was written is then worthless.
    bool (*decode_entropy)(const EntropyBlock& block, uint8_t* matrix);

    // Adds activations times the tile's values to sums[shape.r][tokens][16], modulo 2^32. `ahead` and what is returned
    // are as with decode.
    int (*multiply)(const TileView& tile, Workspace& workspace, const Activations& activations, const uint8_t* ahead,
                    int32_t* sums);

    // clamp(round_half_even(x / scale) + offset, -128, 127) of x[first] ... x[first + count - 1]; not-a-number to -128.
    QuantizedRow (*quantize)(FloatType type, const void* x, int64_t first, int64_t count, float scale, int offset,
                             int8_t* out);

    // The range of x[first] ... x[first + count - 1].
    FloatRange (*find_range)(FloatType type, const void* x, int64_t first, int64_t count);

    // sums[count][16] of `count` tokens to outputs: the first `channels` of each 16 to y[first + t * stride] and on
    // (linear.hpp has the formulas).
    void (*scale_sums)(const int32_t* sums, const OutputScales& scales, const TokenScale* tokens, int64_t count,
                       int channels, FloatType type, void* y, int64_t first, int64_t stride);

    void (*attend)(const AttentionChunk& chunk);

    // Rounds the rows [first, last), first a multiple of kRoundedTogether. `remaining` has room for as many rows and
    // for the columns, rounded up to multiples of kRoundedTogether and kFedTogether.
    void (*round_rows)(const Rounding& rounding, int64_t first, int64_t last, float* remaining);

    // Refines the rows [first, last) of a block. `sums` has room for so many rows of padded_columns(k).
    void (*refine_rows)(const Refinement& refinement, int64_t first, int64_t last, float* sums);

    // y[size] = norm(x[size]); x and y may be the same.
    void (*normalize)(const Norm& norm, const float* x, int64_t size, float* y);

    // y[size] = gates / (1 + e^-gates) * ups: SwiGLU (Shazeer, arXiv 2002.05202).
    void (*gate)(const float* gates, const float* ups, int64_t size, float* y);

    // y[t][r] = weight[r] . x[t] + bias[r] for the rows [first, last).
    void (*multiply_floats)(const FloatRows& rows, int64_t first, int64_t last);
};

// The calling thread's own.
Workspace& workspace();

}  // namespace tilepress
