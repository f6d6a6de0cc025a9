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

void add(const float* from, int64_t size, float* to) {
    for (int64_t i = 0; i < size; ++i) to[i] += from[i];
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

void Decoder::run(const DecoderStep& step, int threads) const {
    const Kernels& kernels = isa().kernels;
    const int64_t hidden = shape_.hidden, size = shape_.head_size, tokens = step.tokens;
    const int64_t turned = shape_.queries + shape_.heads, attended_size = shape_.queries * size;
    // The caller's: residual stream, what a linear reads and what it gives.
    static thread_local std::vector<float> scratch;
    const int64_t widest = std::max({hidden, attended_size, intermediate_});
    scratch.resize(static_cast<size_t>(tokens * (hidden + widest + std::max({row_, 2 * intermediate_, hidden}))));
    float* const x = scratch.data();
    float* const input = x + tokens * hidden;
    float* const output = input + tokens * widest;
    const auto normalize = [&](const Norm& norm) {
        for (int64_t t = 0; t < tokens; ++t) kernels.normalize(norm, x + t * hidden, hidden, input + t * hidden);
    };

    const OwnThreads own;
    std::copy(step.x, step.x + tokens * hidden, x);
    for (size_t number = 0; number < layers_.size(); ++number) {
        const DecoderLayer& layer = layers_[number];
        normalize(layer.attention_norm);
        project_all(layer.query_key_value, input, tokens, output, row_, threads);
        for (int64_t t = 0; t < tokens; ++t) {
            float* const row = output + t * row_;
            for (int64_t head = 0; head < turned; ++head) {
                const Norm& norm = head < shape_.queries ? layer.query_norm : layer.key_norm;
                if (norm.gain != nullptr) kernels.normalize(norm, row + head * size, size, row + head * size);
            }
            const int64_t length = step.past + t;
            attend(
                {
                    .rows = row,
                    .cos = step.cos + t * size,
                    .sin = step.sin + t * size,
                    .keys = step.caches[number],
                    .values = step.caches[number] + shape_.heads * step.room * size,
                    .y = input + t * attended_size,
                    .queries = shape_.queries,
                    .heads = shape_.heads,
                    .size = size,
                    .room = step.room,
                    .length = length,
                    .first = shape_.window == 0 ? 0 : std::max<int64_t>(0, length + 1 - shape_.window),
                },
                threads);
        }
        project_all(layer.output, input, tokens, output, hidden, threads);
        add(output, tokens * hidden, x);

        normalize(layer.mlp_norm);
        project_all(layer.gate_up, input, tokens, output, 2 * intermediate_, threads);
        // So many columns a task, a few microseconds of work.
        constexpr int64_t kColumns = 4096;
        const int64_t pieces = (intermediate_ + kColumns - 1) / kColumns;
        parallel_for(tokens * pieces, threads, [&](int64_t task) {
            const int64_t t = task / pieces, first = task % pieces * kColumns;
            const float* const gates = output + t * 2 * intermediate_ + first;
            kernels.gate(gates, gates + intermediate_, std::min(kColumns, intermediate_ - first),
                         input + t * intermediate_ + first);
        });
        project_all(layer.down, input, tokens, output, hidden, threads);
        add(output, tokens * hidden, x);
    }
    normalize(norm_);
    project_all(head_, input, tokens, step.logits, vocabulary_, threads);
}

}  // namespace tilepress
