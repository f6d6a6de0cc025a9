// The vector operations that decode-inl.hpp and multiply-inl.hpp are written in, for AVX2. Dot products are in
// dot_maddubs.hpp and, where the processor has VNNI, in dot_vnni.hpp.
#pragma once

#include <immintrin.h>

#include <cstdint>

#define TILEPRESS_INLINE inline __attribute__((always_inline))

namespace tilepress::TILEPRESS_TARGET {
namespace {

constexpr int kLanes = 32;

struct Bytes {
    __m256i v;
};

TILEPRESS_INLINE Bytes load(const uint8_t* p) { return {_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))}; }
TILEPRESS_INLINE void store(uint8_t* p, Bytes b) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), b.v); }
TILEPRESS_INLINE Bytes splat(uint8_t value) { return {_mm256_set1_epi8(static_cast<char>(value))}; }
TILEPRESS_INLINE Bytes operator&(Bytes a, Bytes b) { return {_mm256_and_si256(a.v, b.v)}; }
TILEPRESS_INLINE Bytes operator|(Bytes a, Bytes b) { return {_mm256_or_si256(a.v, b.v)}; }
TILEPRESS_INLINE Bytes operator+(Bytes a, Bytes b) { return {_mm256_add_epi8(a.v, b.v)}; }
TILEPRESS_INLINE Bytes equal(Bytes a, Bytes b) { return {_mm256_cmpeq_epi8(a.v, b.v)}; }

// Bits [From, From + Width) of each byte, moved to bit To.
template <int From, int Width, int To>
TILEPRESS_INLINE Bytes field(Bytes b) {
    __m256i v = b.v;
    if constexpr (From > To) v = _mm256_srli_epi16(v, From - To);
    if constexpr (From < To) v = _mm256_slli_epi16(v, To - From);
    return {_mm256_and_si256(v, _mm256_set1_epi8(static_cast<char>(((1 << Width) - 1) << To)))};
}

// The fields at From and at From + Width of the same 16 bytes, one after the other.
template <int From, int Width, int To>
TILEPRESS_INLINE Bytes field16(const uint8_t* p) {
    constexpr int32_t kLow = From, kHigh = From + Width;
    const __m256i twice = _mm256_broadcastsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
    const __m256i shifted =
        _mm256_srlv_epi32(twice, _mm256_setr_epi32(kLow, kLow, kLow, kLow, kHigh, kHigh, kHigh, kHigh));
    return field<0, Width, To>({shifted});
}

// A table of 2^Width bytes, held in registers.
template <int Width>
struct Table {
    static constexpr int kParts = Width <= 4 ? 1 : 1 << (Width - 4);
    __m256i part[kParts];

    TILEPRESS_INLINE explicit Table(const uint8_t* entries) {
        for (int i = 0; i < kParts; ++i) {
            part[i] = _mm256_broadcastsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(entries + 16 * i)));
        }
    }

    // pshufb looks up by the low four bits; the bits above choose between parts, each brought to where blendv looks for
    // it.
    TILEPRESS_INLINE Bytes operator[](Bytes codes) const {
        __m256i found[kParts];
        for (int i = 0; i < kParts; ++i) found[i] = _mm256_shuffle_epi8(part[i], codes.v);
        if constexpr (Width >= 5) halve<kParts>(found, _mm256_slli_epi16(codes.v, 3));
        if constexpr (Width >= 6) halve<kParts / 2>(found, _mm256_slli_epi16(codes.v, 2));
        if constexpr (Width >= 7) halve<kParts / 4>(found, _mm256_slli_epi16(codes.v, 1));
        return {found[0]};
    }

  private:
    template <int Parts>
    static TILEPRESS_INLINE void halve(__m256i* found, __m256i bit) {
        for (int i = 0; i < Parts / 2; ++i) found[i] = _mm256_blendv_epi8(found[2 * i], found[2 * i + 1], bit);
    }
};

// `symbols`, but the lanes that are set in `mask` take the bytes at `next`, one after the other. Moves `next` past
// them; up to 16 bytes from where it then is are read. The place of a lane's byte is the number of lanes set before it,
// which a multiplication counts within four lanes and two shuffles carry on from there: 64 two-bit symbols take 9.3
// cycles on Zen 3, against 17 with shuffles looked up in a table by eight bits of the mask.
TILEPRESS_INLINE Bytes take(Bytes symbols, Bytes mask, const uint8_t*& next) {
    const uint32_t lanes = static_cast<uint32_t>(_mm256_movemask_epi8(mask.v));
    const __m128i* const low = reinterpret_cast<const __m128i*>(next);
    const __m128i* const high = reinterpret_cast<const __m128i*>(next + _mm_popcnt_u32(lanes & 0xffff));
    next += _mm_popcnt_u32(lanes);
    const __m256i bytes =
        _mm256_inserti128_si256(_mm256_castsi128_si256(_mm_loadu_si128(low)), _mm_loadu_si128(high), 1);

    // Four lanes are a number 255 s, where byte i of s is 1 where lane i is set; 0x01010101 s counts them. Modulo 2^32,
    // 0xfbfcfdff is 0x01010101 / 255.
    __m256i place = _mm256_mullo_epi32(mask.v, _mm256_set1_epi32(static_cast<int32_t>(0xfbfcfdff)));
    const __m256i carry4 =
        _mm256_broadcastsi128_si256(_mm_setr_epi8(-1, -1, -1, -1, 3, 3, 3, 3, -1, -1, -1, -1, 11, 11, 11, 11));
    place = _mm256_add_epi8(place, _mm256_shuffle_epi8(place, carry4));
    const __m256i carry8 =
        _mm256_broadcastsi128_si256(_mm_setr_epi8(-1, -1, -1, -1, -1, -1, -1, -1, 7, 7, 7, 7, 7, 7, 7, 7));
    place = _mm256_add_epi8(place, _mm256_shuffle_epi8(place, carry8));
    place = _mm256_add_epi8(place, mask.v);  // less the lane itself
    return {_mm256_blendv_epi8(symbols.v, _mm256_shuffle_epi8(bytes, place), mask.v)};
}

// Sums of eight rows.
struct Sums {
    __m256i v;
};

TILEPRESS_INLINE Sums splat_sums(int32_t value) { return {_mm256_set1_epi32(value)}; }
TILEPRESS_INLINE void add_to(int32_t* p, Sums sums) {
    __m256i* const at = reinterpret_cast<__m256i*>(p);
    _mm256_storeu_si256(at, _mm256_add_epi32(_mm256_loadu_si256(at), sums.v));
}

// The four columns of one group of activations, for all rows.
TILEPRESS_INLINE __m256i four_values(const int8_t* p) {
    int32_t four;
    __builtin_memcpy(&four, p, 4);
    return _mm256_set1_epi32(four);
}

}  // namespace
}  // namespace tilepress::TILEPRESS_TARGET
