// Codes to planes (docs/reference/bitstream.md, "Planes").
#pragma once

#include <cstdint>

namespace tilepress::TILEPRESS_TARGET {
namespace {

// Packs 8 * V codes of 1 to 7 bits into Width * V bytes. V is 64 for level 0 and 16 for the others. Loops over i become
// vector instructions: shifts must be known to the compiler for that.
template <int V, int Width>
void pack_planes(const uint8_t* codes, uint8_t* out) {
    constexpr int kAfter4 = Width & 4, kAfter2 = Width & 6;
    if constexpr (Width & 4) {
        for (int v = 0; v < 4; ++v, out += V) {
            const uint8_t* const c = codes + 2 * v * V;
            for (int i = 0; i < V; ++i) out[i] = static_cast<uint8_t>((c[i] & 15) | c[V + i] << 4);
        }
    }
    if constexpr (Width & 2) {
        const auto two = [](uint8_t code) { return code >> kAfter4 & 3; };
        for (int v = 0; v < 2; ++v, out += V) {
            const uint8_t* const c = codes + 4 * v * V;
            for (int i = 0; i < V; ++i) {
                out[i] = static_cast<uint8_t>(two(c[i]) | two(c[V + i]) << 2 | two(c[2 * V + i]) << 4 |
                                              two(c[3 * V + i]) << 6);
            }
        }
    }
    if constexpr (Width & 1) {
        const auto one = [](uint8_t code) { return code >> kAfter2 & 1; };
        const uint8_t* const c = codes;
        for (int i = 0; i < V; ++i) {
            out[i] = static_cast<uint8_t>(one(c[i]) | one(c[V + i]) << 1 | one(c[2 * V + i]) << 2 |
                                          one(c[3 * V + i]) << 3 | one(c[4 * V + i]) << 4 | one(c[5 * V + i]) << 5 |
                                          one(c[6 * V + i]) << 6 | one(c[7 * V + i]) << 7);
        }
    }
}

using PackPlanes = void (*)(const uint8_t* codes, uint8_t* out);

// By width less 1.
template <int V>
constexpr PackPlanes kPackPlanes[7] = {pack_planes<V, 1>, pack_planes<V, 2>, pack_planes<V, 3>, pack_planes<V, 4>,
                                       pack_planes<V, 5>, pack_planes<V, 6>, pack_planes<V, 7>};

}  // namespace
}  // namespace tilepress::TILEPRESS_TARGET
