#include "kernels/attention.hpp"

#include <algorithm>
#include <cfloat>
#include <cmath>
#include <cstring>
#include <vector>

#include "simd/isa.hpp"
#include "simd/kernels.hpp"
#include "threads/tasks.hpp"

namespace tilepress {

namespace {

void turn(const float* cos, const float* sin, int64_t size, float* row) {
    const int64_t half = size / 2;
    for (int64_t i = 0; i < half; ++i) {
        const float first = row[i], second = row[i + half];
        row[i] = first * cos[i] + -second * sin[i];
        row[i + half] = second * cos[i + half] + first * sin[i + half];
    }
}

// Numbers beyond float16's become its largest.
void store_float16(const float* x, int64_t size, uint8_t* out) {
    constexpr float kLargest = 65504.0f;
    for (int64_t i = 0; i < size; ++i) {
        Float16 stored;
        narrow(std::clamp(x[i], -kLargest, kLargest), stored);
        std::memcpy(out + 2 * i, &stored, sizeof stored);
    }
}

// By the scale that makes the largest magnitude 127; not-a-number where one is not finite.
void store_int8(const float* x, int64_t size, uint8_t* out) {
    float largest = 0;
    for (int64_t i = 0; i < size; ++i) {
        largest = std::fabs(x[i]) <= FLT_MAX ? std::max(largest, std::fabs(x[i])) : NAN;
        if (largest != largest) break;
    }
    const float scale = largest / 127.0f, inverse = scale >= FLT_MIN ? 1.0f / scale : 0.0f;
    constexpr float kRounder = 12582912.0f;  // adding and taking away 1.5 * 2^23 rounds to nearest even
    for (int64_t i = 0; i < size; ++i) {
        float whole = (x[i] * inverse + kRounder) - kRounder;
        whole = whole > -127.0f ? whole : -127.0f;  // not-a-number too
        whole = whole < 127.0f ? whole : 127.0f;
        out[i] = static_cast<uint8_t>(static_cast<int8_t>(whole));
    }
    std::memcpy(out + size, &scale, sizeof scale);
}

void store(CacheType type, const float* x, int64_t size, uint8_t* out) {
    switch (type) {
        case CacheType::float32:
            std::memcpy(out, x, static_cast<size_t>(size) * sizeof(float));
            return;
        case CacheType::float16:
            return store_float16(x, size, out);
        case CacheType::int8:
            return store_int8(x, size, out);
    }
}

// The attention of some queries to one chunk or more: sums of values [queries, size], their maxima and totals.
struct Partial {
    Partial(float* memory, int64_t queries, int64_t size)
        : sums(memory), maxima(memory + queries * size), totals(maxima + queries) {}

    static int64_t floats(int64_t queries, int64_t size) { return queries * (size + 2); }

    float *const sums, *const maxima, *const totals;
};

class Attention {
  public:
    explicit Attention(const AttentionArguments& arguments)
        : a_(arguments),
          size_(arguments.size),
          group_(arguments.queries / arguments.heads),
          row_((arguments.queries + 2 * arguments.heads) * arguments.size),
          bytes_(row_bytes(arguments.type, arguments.size)) {}

    // Turns a token's queries and keys, and puts keys and values into the cache.
    void append(int64_t token) const {
        const float *const cos = a_.cos + token * size_, *const sin = a_.sin + token * size_;
        const float scale = 1.0f / std::sqrt(static_cast<float>(size_));
        float* const queries = a_.rows + token * row_;
        for (int64_t q = 0; q < a_.queries + a_.heads; ++q) turn(cos, sin, size_, queries + q * size_);
        for (int64_t i = 0; i < a_.queries * size_; ++i) queries[i] *= scale;
        const float* const keys = queries + a_.queries * size_;
        const float* const values = keys + a_.heads * size_;
        for (int64_t head = 0; head < a_.heads; ++head) {
            const int64_t place = (head * a_.room + a_.past + token) * bytes_;
            store(a_.type, keys + head * size_, size_, a_.keys + place);
            store(a_.type, values + head * size_, size_, a_.values + place);
        }
    }

    // The first token that `token` attends to, and its number of chunks from there.
    int64_t first(int64_t token) const {
        return a_.window == 0 ? 0 : std::max<int64_t>(0, a_.past + token + 1 - a_.window);
    }
    int64_t chunks(int64_t token) const {
        return (a_.past + token + 1 - first(token) + AttentionChunk::kTokens - 1) / AttentionChunk::kTokens;
    }

    // One head's queries of one token against one of its chunks.
    void attend(int64_t token, int64_t head, int64_t chunk, const Partial& out) const {
        const int64_t begin = first(token) + chunk * AttentionChunk::kTokens;
        attend(queries(token, head), group_, head, begin, a_.past + token + 1, out);
    }

    // `count` queries of one head against the chunk at `begin`, of the tokens before `end`.
    void attend(const float* queries, int64_t count, int64_t head, int64_t begin, int64_t end,
                const Partial& out) const {
        const int64_t place = (head * a_.room + begin) * bytes_;
        isa().kernels.attend({
            .queries = queries,
            .type = a_.type,
            .keys = a_.keys + place,
            .values = a_.values + place,
            .out = out.sums,
            .maxima = out.maxima,
            .totals = out.totals,
            .count = count,
            .size = size_,
            .tokens = static_cast<int>(std::min<int64_t>(end - begin, AttentionChunk::kTokens)),
        });
    }

    // Puts what the queries number `at` and on of `one` got from a chunk to what a token got from those before.
    void take(int64_t token, int64_t head, int64_t chunk, const Partial& one, int64_t at, float* maxima,
              float* totals) const {
        float* y = output(token, head);
        const float* sums = one.sums + at * size_;
        for (int64_t q = 0; q < group_; ++q, y += size_, sums += size_) {
            const float new_maximum = one.maxima[at + q], new_total = one.totals[at + q];
            if (chunk == 0) {
                maxima[q] = new_maximum;
                totals[q] = new_total;
                std::copy(sums, sums + size_, y);
                continue;
            }
            const float maximum = std::max(maxima[q], new_maximum);
            const float before = std::exp(maxima[q] - maximum), now = std::exp(new_maximum - maximum);
            maxima[q] = maximum;
            totals[q] = before * totals[q] + now * new_total;
            for (int64_t i = 0; i < size_; ++i) y[i] = before * y[i] + now * sums[i];
        }
    }

    void divide(int64_t token, int64_t head, const float* totals) const {
        float* y = output(token, head);
        for (int64_t q = 0; q < group_; ++q, y += size_) {
            for (int64_t i = 0; i < size_; ++i) y[i] /= totals[q];
        }
    }

    // One head of some tokens, chunk after chunk. Those that see a whole chunk are multiplied by it together.
    void attend_in_order(int64_t begin, int64_t end, int64_t head) const {
        const int64_t tokens = end - begin, count = tokens * group_;
        // Of this thread: the queries, the partial result of a chunk, then maxima and totals.
        static thread_local std::vector<float> scratch;
        scratch.resize(static_cast<size_t>(count * size_ + Partial::floats(count, size_) + 2 * count));
        float* const gathered = scratch.data();
        for (int64_t t = 0; t < tokens; ++t) {
            const float* const from = queries(begin + t, head);
            std::copy(from, from + group_ * size_, gathered + t * group_ * size_);
        }
        const Partial partial(gathered + count * size_, count, size_);
        float *const maxima = partial.totals + count, *const totals = maxima + count;
        const auto take = [&](int64_t t, int64_t chunk, int64_t at) {
            this->take(begin + t, head, chunk, partial, at, maxima + t * group_, totals + t * group_);
        };
        const bool aligned = first(end - 1) == 0;  // all tokens' chunks begin at the same places
        for (int64_t chunk = 0; chunk < chunks(end - 1); ++chunk) {
            const int64_t chunk_end = (chunk + 1) * AttentionChunk::kTokens;
            // So many see a part of it, or begin elsewhere.
            const int64_t some = aligned ? std::clamp<int64_t>(chunk_end - 1 - a_.past - begin, 0, tokens) : tokens;
            for (int64_t t = 0; t < some; ++t) {
                if (chunk >= chunks(begin + t)) continue;
                attend(begin + t, head, chunk, partial);
                take(t, chunk, 0);
            }
            if (some == tokens) continue;
            attend(gathered + some * group_ * size_, (tokens - some) * group_, head,
                   chunk_end - AttentionChunk::kTokens, chunk_end, partial);
            for (int64_t t = some; t < tokens; ++t) take(t, chunk, (t - some) * group_);
        }
        for (int64_t t = 0; t < tokens; ++t) divide(begin + t, head, totals + t * group_);
    }

    int64_t group() const { return group_; }
    int64_t size() const { return size_; }

  private:
    const float* queries(int64_t token, int64_t head) const { return a_.rows + token * row_ + head * group_ * size_; }
    float* output(int64_t token, int64_t head) const { return a_.y + (token * a_.queries + head * group_) * size_; }

    const AttentionArguments& a_;
    const int64_t size_, group_, row_, bytes_;
};

// Few tokens: each chunk of each is a task, and the results are put together at the end.
void attend_few(const AttentionArguments& arguments, const Attention& attention, int threads) {
    const int64_t group = attention.group(), partial = Partial::floats(group, attention.size());
    std::vector<int64_t> begins{0};  // of each token's chunks, for one head
    for (int64_t token = 0; token < arguments.tokens; ++token) {
        begins.push_back(begins.back() + attention.chunks(token));
    }
    const int64_t chunks = begins.back(), tasks = chunks * arguments.heads;
    // The caller's: the result of every task, then a head's maxima and totals.
    static thread_local std::vector<float> scratch;
    scratch.resize(static_cast<size_t>(tasks * partial + 2 * group));
    float* const partials = scratch.data();
    float *const maxima = partials + tasks * partial, *const totals = maxima + group;
    // Sharing less than this takes longer than doing it: a few microseconds of work.
    constexpr int64_t kWorthSharing = 1 << 14;
    const int64_t reached = arguments.tokens * std::min(arguments.past + 1, chunks * AttentionChunk::kTokens);
    const bool share = 2 * arguments.heads * reached * attention.size() >= kWorthSharing;
    parallel_for(tasks, share ? threads : 1, [&](int64_t task) {
        const int64_t head = task / chunks, chunk = task % chunks;
        const int64_t token = std::upper_bound(begins.begin(), begins.end(), chunk) - begins.begin() - 1;
        attention.attend(token, head, chunk - begins[token],
                         Partial(partials + task * partial, group, attention.size()));
    });
    for (int64_t head = 0; head < arguments.heads; ++head) {
        for (int64_t token = 0; token < arguments.tokens; ++token) {
            for (int64_t chunk = 0; chunk < attention.chunks(token); ++chunk) {
                const int64_t task = head * chunks + begins[token] + chunk;
                const Partial one(partials + task * partial, group, attention.size());
                attention.take(token, head, chunk, one, 0, maxima, totals);
            }
            attention.divide(token, head, totals);
        }
    }
}

}  // namespace

void attend(const AttentionArguments& arguments, int threads) {
    const Attention attention(arguments);
    // So many tokens share what a task reads, 64 KiB a chunk for heads of 64.
    constexpr int64_t kTogether = 32;
    // Floats of partial results that may stay with the thread, where there are tokens enough to share.
    constexpr int64_t kMostKept = 1 << 21, kFewest = 4;
    const int64_t kept = arguments.tokens * attention.chunks(arguments.tokens - 1) * arguments.queries *
                         Partial::floats(1, arguments.size);
    if (arguments.tokens <= kFewest || (arguments.tokens < kTogether && kept <= kMostKept)) {
        for (int64_t token = 0; token < arguments.tokens; ++token) attention.append(token);
        return attend_few(arguments, attention, threads);
    }
    parallel_for(arguments.tokens, threads, [&](int64_t token) { attention.append(token); });
    const int64_t blocks = (arguments.tokens + kTogether - 1) / kTogether;
    // The last tokens attend to most: they come first, so that no thread is left with them at the end.
    parallel_for_throwing(blocks * arguments.heads, threads, [&](int64_t task) {
        const int64_t begin = (blocks - 1 - task / arguments.heads) * kTogether;
        attention.attend_in_order(begin, std::min(begin + kTogether, arguments.tokens), task % arguments.heads);
    });
}

}  // namespace tilepress
