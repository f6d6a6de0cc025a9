#include "decoder/decoder.hpp"

#include <algorithm>
#include <stdexcept>
#include <string>
#include <utility>

#include "kernels/attention.hpp"
#include "simd/isa.hpp"
#include "threads/tasks.hpp"

namespace tilepress {

namespace {

// The outputs of linears that read `inputs` columns. Throws std::invalid_argument where one reads another number, or
// where the outputs are not `expected`, unless that is 0.
int64_t outputs(const char* name, const std::vector<Projection>& linears, int64_t inputs, int64_t expected) {
    int64_t total = 0;
    for (const Projection& linear : linears) {
        if (linear.k != inputs) {
            throw std::invalid_argument(std::string(name) + " reads " + std::to_string(linear.k) + " columns of " +
                                        std::to_string(inputs));
        }
        total += linear.n;
    }
    if (total == 0 || (expected != 0 && total != expected)) {
        throw std::invalid_argument(std::string(name) + " gives " + std::to_string(total) + " columns, " +
                                    std::to_string(expected) + " are needed");
    }
    return total;
}

void project_all(const std::vector<Projection>& linears, const float* x, int64_t tokens, float* y, int64_t stride,
                 int threads) {
    for (const Projection& linear : linears) {
        project(linear, x, tokens, y, stride, threads);
        y += linear.n;
    }
}

// for_each(token, first, last) of columns [0, size), in pieces that are worth a task.
template <typename Function>
void for_columns(int64_t tokens, int64_t size, int threads, Function&& for_each) {
    constexpr int64_t kColumns = 4096;
    const int64_t pieces = (size + kColumns - 1) / kColumns;
    parallel_for(tokens * pieces, threads, [&](int64_t task) {
        const int64_t first = task % pieces * kColumns;
        for_each(task / pieces, first, std::min(size, first + kColumns));
    });
}

// for_each(token), where each has so many columns.
template <typename Function>
void for_tokens(int64_t tokens, int64_t size, int threads, Function&& for_each) {
    // Sharing less than this takes longer than doing it.
    constexpr int64_t kWorthSharing = 1 << 14;
    parallel_for(tokens, tokens * size < kWorthSharing ? 1 : threads, [&](int64_t t) { for_each(t); });
}

}  // namespace

Decoder::Decoder(const DecoderShape& shape, std::vector<DecoderLayer> layers, const Norm& norm,
                 std::vector<Projection> head)
    : shape_(shape), layers_(std::move(layers)), norm_(norm), head_(std::move(head)) {
    if (shape.hidden < 1 || shape.heads < 1 || shape.queries < 1 || shape.queries % shape.heads != 0 ||
        shape.head_size < 8 || shape.head_size % 8 != 0 || shape.window < 0 || layers_.empty()) {
        throw std::invalid_argument("no decoder has " + std::to_string(shape.hidden) + " columns, " +
                                    std::to_string(shape.queries) + " queries, " + std::to_string(shape.heads) +
                                    " heads of " + std::to_string(shape.head_size));
    }
    row_ = (shape.queries + 2 * shape.heads) * shape.head_size;
    intermediate_ = outputs("gate_up", layers_[0].gate_up, shape.hidden, 0) / 2;
    for (const DecoderLayer& layer : layers_) {
        outputs("query_key_value", layer.query_key_value, shape.hidden, row_);
        outputs("output", layer.output, shape.queries * shape.head_size, shape.hidden);
        outputs("gate_up", layer.gate_up, shape.hidden, 2 * intermediate_);
        outputs("down", layer.down, intermediate_, shape.hidden);
    }
    vocabulary_ = outputs("head", head_, shape.hidden, 0);
}

void Decoder::attend_all(const DecoderStep& step, size_t layer, float* output, float* input, int threads) const {
    std::vector<AttentionArguments> few, many;
    int64_t first = 0;
    for (const DecoderSequence& sequence : step.sequences) {
        const int64_t size = shape_.head_size;
        // One of so many tokens occupies all threads.
        constexpr int64_t kFewTokens = 32;
        (sequence.tokens <= kFewTokens ? few : many)
            .push_back({
                .rows = output + first * row_,
                .cos = step.cos + first * size,
                .sin = step.sin + first * size,
                .type = sequence.cache_type,
                .keys = sequence.caches[layer],
                .values = sequence.caches[layer] + shape_.heads * sequence.room * row_bytes(sequence.cache_type, size),
                .y = input + first * shape_.queries * size,
                .tokens = sequence.tokens,
                .queries = shape_.queries,
                .heads = shape_.heads,
                .size = size,
                .room = sequence.room,
                .past = sequence.past,
                .window = shape_.window,
            });
        first += sequence.tokens;
    }
    for (const AttentionArguments& arguments : many) attend(arguments, threads);
    if (static_cast<int64_t>(few.size()) < 2 * threads) {
        for (const AttentionArguments& arguments : few) attend(arguments, threads);
    } else {  // each thread takes some of them: within a task `attend` does not share its work
        parallel_for_throwing(static_cast<int64_t>(few.size()), threads,
                              [&](int64_t i) { attend(few[static_cast<size_t>(i)], threads); });
    }
}

void Decoder::run(const DecoderStep& step, int threads) const {
    const Kernels& kernels = isa().kernels;
    const int64_t hidden = shape_.hidden, size = shape_.head_size;
    int64_t tokens = 0, asked = 0;
    for (const DecoderSequence& sequence : step.sequences) {
        tokens += sequence.tokens;
        asked += sequence.asked;
    }
    // The caller's: residual stream, what a linear reads and what it gives.
    static thread_local std::vector<float> scratch;
    const int64_t widest = std::max({hidden, shape_.queries * size, intermediate_});
    scratch.resize(static_cast<size_t>(tokens * (hidden + widest + std::max({row_, 2 * intermediate_, hidden}))));
    float* const x = scratch.data();
    float* const input = x + tokens * hidden;
    float* const output = input + tokens * widest;
    // What a linear gave is added to the stream, and the next reads its norm.
    const auto add = [&](int64_t t) {
        for (int64_t i = t * hidden; i < (t + 1) * hidden; ++i) x[i] += output[i];
    };
    const auto normalize = [&](const Norm& norm, int64_t t) {
        kernels.normalize(norm, x + t * hidden, hidden, input + t * hidden);
    };

    const OwnThreads own;
    std::copy(step.x, step.x + tokens * hidden, x);
    for (size_t number = 0; number < layers_.size(); ++number) {
        const DecoderLayer& layer = layers_[number];
        for_tokens(tokens, hidden, threads, [&](int64_t t) {
            if (number > 0) add(t);
            normalize(layer.attention_norm, t);
        });
        project_all(layer.query_key_value, input, tokens, output, row_, threads);
        if (layer.query_norm.gain != nullptr || layer.key_norm.gain != nullptr) {
            for_tokens(tokens, row_, threads, [&](int64_t t) {
                float* row = output + t * row_;
                for (int64_t head = 0; head < shape_.queries + shape_.heads; ++head, row += size) {
                    const Norm& norm = head < shape_.queries ? layer.query_norm : layer.key_norm;
                    if (norm.gain != nullptr) kernels.normalize(norm, row, size, row);
                }
            });
        }
        attend_all(step, number, output, input, threads);
        project_all(layer.output, input, tokens, output, hidden, threads);

        for_tokens(tokens, hidden, threads, [&](int64_t t) {
            add(t);
            normalize(layer.mlp_norm, t);
        });
        project_all(layer.gate_up, input, tokens, output, 2 * intermediate_, threads);
        for_columns(tokens, intermediate_, threads, [&](int64_t t, int64_t first, int64_t last) {
            const float* const gates = output + t * 2 * intermediate_ + first;
            kernels.gate(gates, gates + intermediate_, last - first, input + t * intermediate_ + first);
        });
        project_all(layer.down, input, tokens, output, hidden, threads);
    }
    float* to = input;
    int64_t end = 0;
    for (const DecoderSequence& sequence : step.sequences) {
        end += sequence.tokens;
        for (int64_t t = end - sequence.asked; t < end; ++t, to += hidden) {
            add(t);
            kernels.normalize(norm_, x + t * hidden, hidden, to);
        }
    }
    project_all(head_, input, asked, step.logits, vocabulary_, threads);
    // A prompt's is given back: 84 MB for 512 tokens of an 8B model.
    constexpr int64_t kFewTokens = 32;
    if (tokens > kFewTokens) std::vector<float>().swap(scratch);
}

}  // namespace tilepress
