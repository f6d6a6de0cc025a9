// Writing a tile on processors that have AVX-512 VBMI and VBMI2.
#ifdef __AVX512VBMI2__

#define TILEPRESS_TARGET avx512

#include <immintrin.h>

#include "codec/level_codes.hpp"
#include "simd/encode_tile.hpp"

namespace tilepress::avx512 {
namespace {

template <bool Escapes>
class Coder {
  public:
    explicit Coder(const LevelCodes& level) : escape_(_mm512_set1_epi8(static_cast<char>(level.escape()))) {
        for (int i = 0; i < 4; ++i) part_[i] = _mm512_loadu_si512(level.code + 64 * i);
    }

    int run(const uint8_t* symbols, int length, uint8_t* codes, uint8_t* escaped) const {
        uint8_t* const begin = escaped;
        for (int at = 0; at < length; at += 64) {
            const __m512i own = _mm512_loadu_si512(symbols + at);
            const __m512i low = _mm512_permutex2var_epi8(part_[0], own, part_[1]);
            const __m512i high = _mm512_permutex2var_epi8(part_[2], own, part_[3]);
            const __m512i code = _mm512_mask_blend_epi8(_mm512_movepi8_mask(own), low, high);
            _mm512_store_si512(codes + at, code);
            if constexpr (Escapes) {
                const __mmask64 escapes = _mm512_cmpeq_epi8_mask(code, escape_);
                // Compressed in a register first: straight to memory is microcode on Zen 4.
                _mm512_storeu_si512(escaped, _mm512_maskz_compress_epi8(escapes, own));
                escaped += _mm_popcnt_u64(escapes);
            }
        }
        return static_cast<int>(escaped - begin);
    }

  private:
    __m512i escape_, part_[4];
};

}  // namespace
}  // namespace tilepress::avx512

// after the coder that it calls
#include "codec/encode-inl.hpp"

namespace tilepress {

void encode_tile_avx512(const TilePlan& plan, TileShape shape, EncodeBuffers& buffers, uint8_t* out) {
    avx512::encode_tile(plan, shape, buffers, out);
}

}  // namespace tilepress

#endif
