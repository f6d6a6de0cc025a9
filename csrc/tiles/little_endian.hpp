// Little-endian numbers at any address, on any host.
#pragma once

#include <cstdint>

namespace tilepress {

inline uint16_t load_u16(const uint8_t* p) { return static_cast<uint16_t>(p[0] | p[1] << 8); }

inline uint32_t load_u32(const uint8_t* p) { return load_u16(p) | static_cast<uint32_t>(load_u16(p + 2)) << 16; }

inline uint64_t load_u64(const uint8_t* p) {
    uint64_t value = 0;
    for (int byte = 0; byte < 8; ++byte) value |= static_cast<uint64_t>(p[byte]) << (8 * byte);
    return value;
}

inline void store_u16(uint8_t* p, uint16_t value) {
    p[0] = static_cast<uint8_t>(value);
    p[1] = static_cast<uint8_t>(value >> 8);
}

inline void store_u32(uint8_t* p, uint32_t value) {
    store_u16(p, static_cast<uint16_t>(value));
    store_u16(p + 2, static_cast<uint16_t>(value >> 16));
}

inline void store_u64(uint8_t* p, uint64_t value) {
    for (int byte = 0; byte < 8; ++byte) p[byte] = static_cast<uint8_t>(value >> (8 * byte));
}

}  // namespace tilepress
