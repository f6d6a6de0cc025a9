// The kernels for processors that have AVX2 and VNNI without AVX-512: Alder Lake and newer.
#ifdef __AVXVNNI__

#define TILEPRESS_TARGET avxvnni
#include "simd/dot_vnni.hpp"
// after the operations it is written in
#include "kernels/multiply-inl.hpp"
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

extern const Kernels kAvxVnniKernels;
const Kernels kAvxVnniKernels{
    avxvnni::decode,         avxvnni::decode_rows, avxvnni::decode_entropy, avxvnni::multiply<avxvnni::Dot>,
    avxvnni::quantize,       avxvnni::find_range,  avxvnni::scale_sums,     avxvnni::attend,
    avxvnni::round_rows,     avxvnni::refine_rows, avxvnni::normalize,      avxvnni::gate,
    avxvnni::multiply_floats};

}  // namespace tilepress

#endif
