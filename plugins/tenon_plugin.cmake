# tenon_plugin(ID SOURCES sources... [LIBS libraries...]): builds a technique's CPU objects and stages them with the manifest.json that lies
# beside the CMakeLists.txt. Each CPU level is a whole object of its own: inline functions compiled for one instruction set never
# meet those of another, and the loader takes the best object that the CPU can run. The staged folder is then sealed: digests and
# hyper-parameters are read from the objects. It is ${TENON_STAGING}/ID, and the target that makes it is ID.staged.
# Tenon's own build and the installed package Tenon both include this file; the package sets TENON_SEAL and TENON_STAGING first.
set(TENON_CPU_LEVELS "x86-64-v4;x86-64-v3" CACHE STRING "CPU levels to build plugin objects for, best first")
set(TENON_EXPORTS_MAP ${CMAKE_CURRENT_LIST_DIR}/exports.map)
if(NOT TENON_SEAL)
  set(TENON_SEAL tenon-store)
endif()
if(NOT TENON_STAGING)
  set(TENON_STAGING ${CMAKE_BINARY_DIR}/lib/tenon/staging)
endif()
set_property(GLOBAL PROPERTY TENON_STAGED "")
find_package(OpenMP REQUIRED COMPONENTS CXX)

function(tenon_plugin id)
  cmake_parse_arguments(ARG "" "" "SOURCES;LIBS" ${ARGN})
  set(stage ${TENON_STAGING}/${id})
  set(objects "")
  foreach(level ${TENON_CPU_LEVELS})
    set(target ${id}.onednn.${level})
    add_library(${target} MODULE ${ARG_SOURCES})
    target_link_libraries(${target} PRIVATE tenon::sdk OpenMP::OpenMP_CXX ${ARG_LIBS})
    target_compile_definitions(${target} PRIVATE TENON_BACKEND="onednn")
    # No errno and no traps: loops over sqrt and division vectorize; NaN and Inf keep their meaning.
    target_compile_options(${target} PRIVATE -O3 -march=${level} -mprefer-vector-width=512 -fno-math-errno -fno-trapping-math)
    target_link_options(${target} PRIVATE -Wl,--version-script=${TENON_EXPORTS_MAP})
    set_target_properties(${target} PROPERTIES PREFIX "" SUFFIX ".so" LIBRARY_OUTPUT_DIRECTORY ${stage}
      CXX_VISIBILITY_PRESET hidden VISIBILITY_INLINES_HIDDEN ON)
    list(APPEND objects ${target})
  endforeach()
  add_custom_command(OUTPUT ${stage}/manifest.json
    COMMAND ${CMAKE_COMMAND} -E copy ${CMAKE_CURRENT_SOURCE_DIR}/manifest.json ${stage}/manifest.json
    COMMAND ${TENON_SEAL} seal ${stage}
    DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/manifest.json ${objects} ${TENON_SEAL}
    COMMENT "Sealing plugin ${id}")
  add_custom_target(${id}.staged ALL DEPENDS ${stage}/manifest.json)
  set_property(GLOBAL APPEND PROPERTY TENON_STAGED ${stage})
  set_property(GLOBAL APPEND PROPERTY TENON_STAGED_TARGETS ${id}.staged)
endfunction()
