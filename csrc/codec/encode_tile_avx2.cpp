// Writing a tile on processors that have AVX2.
#ifdef __AVX2__

#define TILEPRESS_TARGET avx2

#include <immintrin.h>

#include "codec/level_codes.hpp"
#include "simd/encode_tile.hpp"

namespace tilepress::avx2 {
namespace {

// For each byte of set and unset bits, the places of those that are set, one a byte.
struct Places {
    uint64_t of[256] = {};
    constexpr Places() {
        for (int bits = 0; bits < 256; ++bits) {
            for (int place = 7; place >= 0; --place) {
                if (bits >> place & 1) of[bits] = of[bits] << 8 | static_cast<uint64_t>(place);
            }
        }
    }
};
constexpr Places kPlaces;

// pshufb looks up sixteen codes. The table of 256 is cut in as many parts, and those that hold nothing but escapes are
// left out: near zero two or three remain.
template <bool Escapes>
class Coder {
  public:
    explicit Coder(const LevelCodes& level) : none_(_mm256_set1_epi8(static_cast<char>(Escapes ? level.escape() : 0))) {
        for (int high = 0; high < 256; high += 16) {
            const __m128i codes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(level.code + high));
            const __m256i differences = _mm256_xor_si256(_mm256_broadcastsi128_si256(codes), none_);
            if (_mm256_testz_si256(differences, differences)) continue;
            high_[parts_] = _mm256_set1_epi8(static_cast<char>(high));
            part_[parts_++] = differences;
        }
    }

    int run(const uint8_t* symbols, int length, uint8_t* codes, uint8_t* escaped) const {
        uint8_t* const begin = escaped;
        for (int at = 0; at < length; at += 32) {
            const __m256i own = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(symbols + at));
            __m256i code = none_;
            for (int i = 0; i < parts_; ++i) {
                // At most 127 exactly where the symbol lies in the part; pshufb gives 0 for all above.
                const __m256i place = _mm256_adds_epu8(_mm256_xor_si256(own, high_[i]), _mm256_set1_epi8(0x70));
                code = _mm256_xor_si256(code, _mm256_shuffle_epi8(part_[i], place));
            }
            _mm256_store_si256(reinterpret_cast<__m256i*>(codes + at), code);
            if constexpr (Escapes) {
                const __m256i escapes = _mm256_cmpeq_epi8(code, none_);
                const uint32_t lanes = static_cast<uint32_t>(_mm256_movemask_epi8(escapes));
                for (int eight = 0; eight < 32; eight += 8) {
                    const uint32_t bits = lanes >> eight & 0xff;
                    const __m128i places = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(&kPlaces.of[bits]));
                    const __m128i from = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(symbols + at + eight));
                    _mm_storel_epi64(reinterpret_cast<__m128i*>(escaped), _mm_shuffle_epi8(from, places));
                    escaped += _mm_popcnt_u32(bits);
                }
            }
        }
        return static_cast<int>(escaped - begin);
    }

  private:
    __m256i none_;  // the code of all symbols that are in no part
    __m256i high_[16], part_[16];
    int parts_ = 0;
};

}  // namespace
}  // namespace tilepress::avx2

// after the coder that it calls
#include "codec/encode-inl.hpp"

namespace tilepress {

void encode_tile_avx2(const TilePlan& plan, TileShape shape, EncodeBuffers& buffers, uint8_t* out) {
    avx2::encode_tile(plan, shape, buffers, out);
}

}  // namespace tilepress

#endif
