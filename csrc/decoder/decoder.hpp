// The forward pass of a decoder for tokens of some sequences, in one call. In a model of 30 layers and 135 million
// weights, calls of torch between the products took as long as the products.
#pragma once

#include <cstdint>
#include <vector>

#include "decoder/projection.hpp"
#include "simd/kernels.hpp"

namespace tilepress {

// A layer of Llama, Mistral, Qwen2 or Qwen3. Lists: linears of one input, whose outputs follow one another.
struct DecoderLayer {
    Norm attention_norm;
    std::vector<Projection> query_key_value;
    Norm query_norm, key_norm;  // of each head, where there are any
    std::vector<Projection> output;
    Norm mlp_norm;
    std::vector<Projection> gate_up;
    std::vector<Projection> down;
};

struct DecoderShape {
    int64_t hidden, queries, heads, head_size;  // queries: a multiple of heads; head_size: of 8
    int64_t window;                             // tokens that attention reaches, the new one included; 0: all
};

// Keys and values of one layer: [2, heads, room] rows.
using Cache = uint8_t*;

struct DecoderSequence {
    int64_t tokens;
    int64_t past;   // tokens in the caches; these are put behind them
    int64_t asked;  // logits are computed after so many of the last tokens
    CacheType cache_type;
    const Cache* caches;  // of each layer
    int64_t room;         // tokens that each cache has memory for, past + tokens at least
};

struct DecoderStep {
    const float* x;          // [tokens, hidden], embedded: those of the first sequence, then the next
    const float *cos, *sin;  // [tokens, head_size], of the tokens' positions
    std::vector<DecoderSequence> sequences;
    float* logits;  // [asked, vocabulary], in the same order
};

class Decoder {
  public:
    // Throws std::invalid_argument where shapes do not fit. Memory that is pointed to stays the caller's.
    Decoder(const DecoderShape& shape, std::vector<DecoderLayer> layers, const Norm& norm,
            std::vector<Projection> head);

    int64_t layers() const { return static_cast<int64_t>(layers_.size()); }

    // The bits do not depend on threads, on how tokens are divided into steps, nor on the other sequences. Throws
    // BitstreamError for damaged tiles, when what is behind `past` in the caches has no meaning.
    void run(const DecoderStep& step, int threads) const;

  private:
    // The attention of one layer: output [tokens, row_] to input [tokens, queries * head_size].
    void attend_all(const DecoderStep& step, size_t layer, float* output, float* input, int threads) const;

    DecoderShape shape_;
    std::vector<DecoderLayer> layers_;
    Norm norm_;
    std::vector<Projection> head_;
    int64_t row_, intermediate_, vocabulary_;  // floats of a token: queries, keys and values; gates; logits
};

}  // namespace tilepress
