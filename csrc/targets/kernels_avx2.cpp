// The kernels for processors that have AVX2.
#ifdef __AVX2__

#define TILEPRESS_TARGET avx2
#include "simd/dot_maddubs.hpp"
// after the operations it is written in
#include "kernels/multiply_narrowest-inl.hpp"
// before the decoder that opens tiles by them
#include "codec/decode-inl.hpp"
#include "codec/entropy_lanes_avx2.hpp"
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

extern const Kernels kAvx2Kernels;
const Kernels kAvx2Kernels{avx2::decode,         avx2::decode_rows, avx2::decode_entropy, avx2::multiply_narrowest,
                           avx2::quantize,       avx2::find_range,  avx2::scale_sums,     avx2::attend,
                           avx2::round_rows,     avx2::refine_rows, avx2::normalize,      avx2::gate,
                           avx2::multiply_floats};

}  // namespace tilepress

#endif
