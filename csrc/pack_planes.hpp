// Codes to planes (docs/bitstream.md, "Planes").
#pragma once

#include <cstdint>

namespace tilepress {

// Packs 8 * V codes of `width` bits, 1 to 7, into width * V bytes. V is 64 for level 0 and 16 for the others.
template <int V>
void pack_planes(const uint8_t* codes, int width, uint8_t* out) {
    int shift = 0;
    if (width & 4) {
        for (int v = 0; v < 4; ++v, out += V) {
            const uint8_t* low = codes + 2 * v * V;
            for (int i = 0; i < V; ++i) out[i] = static_cast<uint8_t>((low[i] & 15) | low[V + i] << 4);
        }
        shift = 4;
    }
    if (width & 2) {
        for (int v = 0; v < 2; ++v, out += V) {
            const uint8_t* low = codes + 4 * v * V;
            for (int i = 0; i < V; ++i) {
                out[i] = static_cast<uint8_t>((low[i] >> shift & 3) | (low[V + i] >> shift & 3) << 2 |
                                              (low[2 * V + i] >> shift & 3) << 4 | (low[3 * V + i] >> shift & 3) << 6);
            }
        }
        shift += 2;
    }
    if (width & 1) {
        for (int i = 0; i < V; ++i) out[i] = 0;
        for (int p = 0; p < 8; ++p) {
            for (int i = 0; i < V; ++i) out[i] |= static_cast<uint8_t>((codes[p * V + i] >> shift & 1) << p);
        }
    }
}

}  // namespace tilepress
