# tenon_plugin(ID SOURCES sources... [HOST sources...] [GPU] [EXACT] [GPU_SOURCES sources...] [KERNELS name] [LIBS libraries...]): builds a technique's objects and stages them with the
# manifest.json that lies beside the CMakeLists.txt. Each CPU level is a whole object of its own: inline functions compiled for one
# instruction set never meet those of another, and the loader takes the best object that the CPU can run. GPU: the technique's code outside
# kernels never touches what tensors hold, so the same sources also become ID.cuda.so and ID.hip.so (tenon_gpu.cmake); HOST are sources
# without kernels, which GPU compilers need not see, GPU_SOURCES stand in for SOURCES where the kernels are others, and KERNELS are those that techniques share (tenon_gpu_kernels). EXACT: a*b + c
# stays two roundings in every object. The staged folder is then sealed: digests and hyper-parameters are read from the
# objects. It is ${TENON_STAGING}/ID, and the target that makes it is ID.staged.
# Tenon's own build and the installed package Tenon both include this file; the package sets TENON_SEAL and TENON_STAGING first.
#
# Where TENON_EMULATED_STORE is set, a GPU technique also gets objects for the emulated GPU (sdk/gpu/emulated_block.h) with waves of 32 and 64
# threads: its own test runs them, and that store holds the first.
set(TENON_CPU_LEVELS "x86-64-v4;x86-64-v3" CACHE STRING "CPU levels to build plugin objects for, best first")
set(TENON_EXPORTS_MAP ${CMAKE_CURRENT_LIST_DIR}/exports.map)
if(NOT TENON_SEAL)
  set(TENON_SEAL tenon-store)
endif()
if(NOT TENON_STAGING)
  set(TENON_STAGING ${CMAKE_BINARY_DIR}/lib/tenon/staging)
endif()
set(TENON_OVER_CUDA_SAMPLE llm-int8 CACHE STRING "The technique whose HIP object is made over CUDA as well")
set_property(GLOBAL PROPERTY TENON_STAGED "")
find_package(OpenMP REQUIRED COMPONENTS CXX)
include(${CMAKE_CURRENT_LIST_DIR}/tenon_gpu.cmake)

function(tenon_cpu_object target folder name)
  cmake_parse_arguments(ARG "" "" "SOURCES;OPTIONS;DEFINITIONS;LIBS" ${ARGN})
  add_library(${target} MODULE ${ARG_SOURCES})
  target_link_libraries(${target} PRIVATE tenon::sdk ${ARG_LIBS})
  target_compile_definitions(${target} PRIVATE ${ARG_DEFINITIONS})
  target_compile_options(${target} PRIVATE ${ARG_OPTIONS})
  target_link_options(${target} PRIVATE -Wl,--version-script=${TENON_EXPORTS_MAP})
  set_target_properties(${target} PROPERTIES PREFIX "" SUFFIX ".so" OUTPUT_NAME ${name} LIBRARY_OUTPUT_DIRECTORY ${folder}
    CXX_VISIBILITY_PRESET hidden VISIBILITY_INLINES_HIDDEN ON)
endfunction()

# The folder of a plugin with its manifest, sealed; the global property TENON_<name> lists such folders, TENON_<name>_TARGETS what makes them.
function(tenon_stage id stage name)
  add_custom_command(OUTPUT ${stage}/manifest.json
    COMMAND ${CMAKE_COMMAND} -E make_directory ${stage}
    COMMAND ${CMAKE_COMMAND} -E copy ${CMAKE_CURRENT_SOURCE_DIR}/manifest.json ${stage}/manifest.json
    COMMAND ${TENON_SEAL} seal ${stage}
    DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/manifest.json ${ARGN} ${TENON_SEAL}
    COMMENT "Sealing plugin ${id}")
  string(TOLOWER ${id}.${name} target)
  add_custom_target(${target} ALL DEPENDS ${stage}/manifest.json)
  set_property(GLOBAL APPEND PROPERTY TENON_${name} ${stage})
  set_property(GLOBAL APPEND PROPERTY TENON_${name}_TARGETS ${target})
endfunction()

function(tenon_plugin id)
  cmake_parse_arguments(ARG "GPU;EXACT" "KERNELS" "SOURCES;HOST;GPU_SOURCES;LIBS" ${ARGN})
  set(stage ${TENON_STAGING}/${id})
  set(objects "")
  set(exact "")
  set(rounding "")
  if(ARG_EXACT)
    set(exact EXACT)
    set(rounding -ffp-contract=off)
  endif()
  foreach(level ${TENON_CPU_LEVELS})
    set(target ${id}.onednn.${level})
    # No errno and no traps: loops over sqrt and division vectorize; NaN and Inf keep their meaning.
    tenon_cpu_object(${target} ${stage} ${target} SOURCES ${ARG_SOURCES} ${ARG_HOST} LIBS OpenMP::OpenMP_CXX ${ARG_LIBS}
      DEFINITIONS TENON_BACKEND="onednn"
      OPTIONS -O3 -march=${level} -mprefer-vector-width=512 -fno-math-errno -fno-trapping-math ${rounding})
    list(APPEND objects ${target})
  endforeach()
  if(ARG_GPU)
    if(NOT ARG_GPU_SOURCES)
      set(ARG_GPU_SOURCES ${ARG_SOURCES})
    endif()
    tenon_gpu_objects(${id} ${stage} ${exact} SOURCES ${ARG_GPU_SOURCES} HOST ${ARG_HOST} KERNELS ${ARG_KERNELS} LIBS ${ARG_LIBS})
    foreach(backend cuda hip)
      if(TARGET ${id}.${backend})
        list(APPEND objects ${id}.${backend} ${stage}/${id}.${backend}.so)
      endif()
    endforeach()
  endif()
  tenon_stage(${id} ${stage} STAGED ${objects})
endfunction()

# The GPU objects of a technique: the vendors' in `stage`, the emulated ones beside their store.
function(tenon_gpu_objects id stage)
  cmake_parse_arguments(ARG "EXACT" "KERNELS" "SOURCES;HOST;LIBS" ${ARGN})
  set(of_cuda "")
  set(of_hip "")
  if(ARG_EXACT)
    set(of_cuda OPTIONS -fmad=false)
    set(of_hip OPTIONS -ffp-contract=off)
    if(TENON_HIP_OVER_CUDA)
      set(of_hip ${of_cuda})
    endif()
  endif()
  set(host "")
  if(ARG_HOST AND (TENON_CUDA OR TENON_HIP))
    add_library(${id}.host OBJECT ${ARG_HOST})
    target_link_libraries(${id}.host PRIVATE tenon::sdk ${ARG_LIBS})
    target_compile_options(${id}.host PRIVATE -Wno-unknown-pragmas -Wno-unused-parameter)  # headers with OpenMP, which is not linked
    set_target_properties(${id}.host PROPERTIES POSITION_INDEPENDENT_CODE ON CXX_VISIBILITY_PRESET hidden VISIBILITY_INLINES_HIDDEN ON)
    set(host HOST ${id}.host)
  endif()
  if(TENON_CUDA)
    tenon_gpu_object(${id} cuda ${stage} SOURCES ${ARG_SOURCES} LIBS ${ARG_LIBS} ${host} KERNELS ${ARG_KERNELS} ${of_cuda})
  endif()
  if(TENON_HIP)
    tenon_gpu_object(${id} hip ${stage} SOURCES ${ARG_SOURCES} LIBS ${ARG_LIBS} ${host} KERNELS ${ARG_KERNELS} ${of_hip})
  endif()
  # One technique shows in every build with tests that HIP sources compile over CUDA (sdk/gpu/hip_over_cuda.h).
  if(id STREQUAL "${TENON_OVER_CUDA_SAMPLE}" AND TENON_CUDA AND TENON_TESTS AND NOT TENON_HIP_OVER_CUDA)
    tenon_gpu_object(${id} hip ${CMAKE_CURRENT_BINARY_DIR} OVER_CUDA SOURCES ${ARG_SOURCES} LIBS ${ARG_LIBS} ${host} ${of_cuda})
    add_custom_target(${id}_over_cuda ALL DEPENDS ${id}.hip-over-cuda)
  endif()
  if(TENON_EMULATED_STORE)
    set(emulated ${TENON_EMULATED_STORE}/staging/${id})
    tenon_emulated_object(${id} 32 ${emulated} ${ARGN})
    tenon_emulated_object(${id} 64 ${TENON_EMULATED_STORE}/wave64/${id} ${ARGN})
    # Beside it the CPU's objects, as in an installation: a run on a card may update on the host.
    set(beside "")
    foreach(level ${TENON_CPU_LEVELS})
      set(cpu ${id}.onednn.${level})
      add_custom_command(OUTPUT ${emulated}/${cpu}.so COMMAND ${CMAKE_COMMAND} -E copy $<TARGET_FILE:${cpu}> ${emulated}/${cpu}.so DEPENDS ${cpu})
      list(APPEND beside ${emulated}/${cpu}.so)
    endforeach()
    tenon_stage(${id} ${emulated} EMULATED ${id}.emulated.wave32 ${beside})
  endif()
endfunction()

function(tenon_emulated_object id wave folder)
  cmake_parse_arguments(ARG "EXACT" "KERNELS" "SOURCES;HOST;LIBS" ${ARGN})
  set(rounding "")
  if(ARG_EXACT)
    set(rounding -ffp-contract=off)
  endif()
  set(kernels "")
  if(ARG_KERNELS)
    set(kernels $<TARGET_OBJECTS:${ARG_KERNELS}.emulated.wave${wave}>)
  endif()
  tenon_cpu_object(${id}.emulated.wave${wave} ${folder} ${id}.emulated SOURCES ${ARG_SOURCES} ${ARG_HOST} ${kernels} LIBS ${ARG_LIBS}
    OPTIONS -O2 -Wno-unknown-pragmas ${rounding} DEFINITIONS TENON_EMULATED_WAVE=${wave} TENON_BACKEND="emulated")
endfunction()

# tenon_plugin_test_needs(ID OTHER...): the test of ID also loads the objects of other techniques, as inner optimizers.
function(tenon_plugin_test_needs id)
  if(NOT TENON_TESTS)
    return()
  endif()
  foreach(other ${ARGN})
    foreach(level ${TENON_CPU_LEVELS})
      add_dependencies(${id}_test ${other}.onednn.${level})
    endforeach()
    if(TARGET ${id}.emulated.wave64)
      add_dependencies(${id}_test ${other}.emulated.wave32 ${other}.emulated.wave64)
    endif()
  endforeach()
endfunction()
