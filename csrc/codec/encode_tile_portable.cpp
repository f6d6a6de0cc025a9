// Writing a tile on any processor.
#define TILEPRESS_TARGET portable

#include "codec/level_codes.hpp"
#include "simd/encode_tile.hpp"

namespace tilepress::portable {
namespace {

template <bool Escapes>
class Coder {
  public:
    explicit Coder(const LevelCodes& level) : code_(level.code), escape_(level.escape()) {}

    int run(const uint8_t* symbols, int length, uint8_t* codes, uint8_t* escaped) const {
        const uint8_t* const code = code_;  // members would be read again after each byte stored
        const uint8_t escape = escape_;
        int escapes = 0;
        for (int at = 0; at < length; ++at) {
            const uint8_t symbol = symbols[at], own = code[symbol];
            codes[at] = own;
            if constexpr (Escapes) {
                escaped[escapes] = symbol;
                escapes += own == escape;
            }
        }
        return escapes;
    }

  private:
    const uint8_t* code_;
    uint8_t escape_;
};

}  // namespace
}  // namespace tilepress::portable

// after the coder that it calls
#include "codec/encode-inl.hpp"

namespace tilepress {

void encode_tile_portable(const TilePlan& plan, TileShape shape, EncodeBuffers& buffers, uint8_t* out) {
    portable::encode_tile(plan, shape, buffers, out);
}

}  // namespace tilepress
