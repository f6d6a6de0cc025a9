// The kernels for processors that have AVX-512 with VBMI, VBMI2 and VNNI: Ice Lake, Zen 4 and newer.
#ifdef __AVX512VBMI2__

#define TILEPRESS_TARGET avx512
#include "kernels/multiply_avx512.hpp"
// after what it opens tiles by
#include "codec/decode-inl.hpp"
#include "codec/entropy_lanes_avx512.hpp"
// after the lanes it is written in
#include "codec/entropy_block-inl.hpp"
// in plain loops
#include "kernels/activations-inl.hpp"
#include "kernels/attention-inl.hpp"
#include "kernels/elementwise-inl.hpp"
#include "kernels/float_rows-inl.hpp"
#include "kernels/scale_sums-inl.hpp"
#include "rounding/refinement-inl.hpp"

namespace tilepress {

extern const Kernels kAvx512Kernels;
const Kernels kAvx512Kernels{avx512::decode,         avx512::decode_rows, avx512::decode_entropy, avx512::multiply,
                             avx512::quantize,       avx512::find_range,  avx512::scale_sums,     avx512::attend,
                             avx512::round_rows,     avx512::refine_rows, avx512::normalize,      avx512::gate,
                             avx512::multiply_floats};

}  // namespace tilepress

#endif
