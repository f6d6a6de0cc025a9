// The vector operations that decode-inl.hpp and multiply-inl.hpp are written in, for any processor, by the vector
// extension of GCC and Clang. Sixteen lanes suit SSE2 and NEON.
#pragma once

#include <bit>
#include <cstdint>
#include <cstring>

#define TILEPRESS_INLINE inline __attribute__((always_inline))

namespace tilepress::TILEPRESS_TARGET {
namespace {

constexpr int kLanes = 16;

typedef uint8_t Bytes __attribute__((vector_size(kLanes)));

TILEPRESS_INLINE Bytes load(const uint8_t* p) {
    Bytes b;
    std::memcpy(&b, p, sizeof b);
    return b;
}
TILEPRESS_INLINE void store(uint8_t* p, Bytes b) { std::memcpy(p, &b, sizeof b); }
TILEPRESS_INLINE Bytes splat(uint8_t value) { return Bytes{} + value; }
TILEPRESS_INLINE Bytes equal(Bytes a, Bytes b) { return reinterpret_cast<Bytes>(a == b); }

// Bits [From, From + Width) of each byte, moved to bit To.
template <int From, int Width, int To>
TILEPRESS_INLINE Bytes field(Bytes b) {
    constexpr uint8_t kMask = (1 << Width) - 1;
    return (b >> From & kMask) << To;
}

// As many successive fields as there are vectors of 16 lanes in a register here: one.
template <int From, int Width, int To>
TILEPRESS_INLINE Bytes field16(const uint8_t* p) {
    return field<From, Width, To>(load(p));
}

// Lane by lane, in words: compilers turn anything else here into a round trip through memory for each byte. Not
// inlined, since inlining makes the decoder 800 KB long.
struct Words {
    uint64_t word[2];
};

__attribute__((noinline)) Words look_up(Words codes, const uint8_t* entries) {
    Words found{};
    for (int i = 0; i < 2; ++i) {
        for (int bit = 0; bit < 64; bit += 8) {
            found.word[i] |= static_cast<uint64_t>(entries[codes.word[i] >> bit & 0xff]) << bit;
        }
    }
    return found;
}

__attribute__((noinline)) Words take_lanes(Words mask, const uint8_t*& next) {
    const uint8_t* p = next;
    Words taken{};
    for (int i = 0; i < 2; ++i) {
        for (int bit = 0; bit < 64; bit += 8) {
            taken.word[i] |= static_cast<uint64_t>(*p) << bit;
            p += mask.word[i] >> bit & 1;
        }
    }
    next = p;
    return taken;
}

// A table of 2^Width bytes.
template <int Width>
struct Table {
    const uint8_t* entries;

    TILEPRESS_INLINE explicit Table(const uint8_t* entries) : entries(entries) {}

    TILEPRESS_INLINE Bytes operator[](Bytes codes) const {
        return std::bit_cast<Bytes>(look_up(std::bit_cast<Words>(codes), entries));
    }
};

// `symbols`, but the lanes that are set in `mask` take the bytes at `next`, one after the other. Moves `next` past
// them; up to 16 bytes from where it then is are read.
TILEPRESS_INLINE Bytes take(Bytes symbols, Bytes mask, const uint8_t*& next) {
    const Bytes taken = std::bit_cast<Bytes>(take_lanes(std::bit_cast<Words>(mask), next));
    return (symbols & ~mask) | (taken & mask);
}

// Sums of four rows.
typedef uint32_t Sums __attribute__((vector_size(kLanes)));

TILEPRESS_INLINE Sums splat_sums(int32_t value) { return Sums{} + static_cast<uint32_t>(value); }
TILEPRESS_INLINE void add_to(int32_t* p, Sums sums) {
    Sums before;
    std::memcpy(&before, p, sizeof before);
    sums += before;
    std::memcpy(p, &sums, sizeof sums);
}

// Exact for all symbols and values.
struct Dot {
    static constexpr int kLowest = -128;  // symbols are unsigned: they widen by masks
    static constexpr int kGroups = 1;
    static constexpr int kChains = 1;
    struct Weights {
        Sums column[4];
    };
    using Values = Weights;

    static TILEPRESS_INLINE Weights weights(const uint8_t* symbols) {
        Sums w;
        std::memcpy(&w, symbols, sizeof w);
        return {{w & 0xff, w >> 8 & 0xff, w >> 16 & 0xff, w >> 24}};
    }
    static TILEPRESS_INLINE Values values(const int8_t* x) {
        return {{splat_sums(x[0]), splat_sums(x[1]), splat_sums(x[2]), splat_sums(x[3])}};
    }
    static TILEPRESS_INLINE Sums add(Sums sums, const Weights& w, const Values& x) {
        for (int column = 0; column < 4; ++column) sums += w.column[column] * x.column[column];
        return sums;
    }
};

}  // namespace
}  // namespace tilepress::TILEPRESS_TARGET
