# tenon_plugin(ID SOURCES sources... [LIBS libraries...]): builds a technique's CPU objects and stages them with the manifest.json that lies
# beside the CMakeLists.txt. Each CPU level is a whole object of its own: inline functions compiled for one instruction set never
# meet those of another, and the loader takes the best object that the CPU can run. The staged folder is then sealed (digests and
# hyper-parameters are read from the objects) and installed into the store of the build tree by the target `store`.
set(TENON_CPU_LEVELS "x86-64-v4;x86-64-v3" CACHE STRING "CPU levels to build plugin objects for, best first")
set(TENON_STORE ${CMAKE_BINARY_DIR}/lib/tenon)
set_property(GLOBAL PROPERTY TENON_STAGED "")
find_package(OpenMP REQUIRED COMPONENTS CXX)

function(tenon_plugin id)
  cmake_parse_arguments(ARG "" "" "SOURCES;LIBS" ${ARGN})
  set(stage ${TENON_STORE}/staging/${id})
  set(objects "")
  foreach(level ${TENON_CPU_LEVELS})
    set(target ${id}.onednn.${level})
    add_library(${target} MODULE ${ARG_SOURCES})
    target_link_libraries(${target} PRIVATE tenon::sdk OpenMP::OpenMP_CXX ${ARG_LIBS})
    target_compile_definitions(${target} PRIVATE TENON_BACKEND="onednn")
    # No errno and no traps: loops over sqrt and division vectorize; NaN and Inf keep their meaning.
    target_compile_options(${target} PRIVATE -O3 -march=${level} -mprefer-vector-width=512 -fno-math-errno -fno-trapping-math)
    target_link_options(${target} PRIVATE -Wl,--version-script=${CMAKE_SOURCE_DIR}/plugins/exports.map)
    set_target_properties(${target} PROPERTIES PREFIX "" SUFFIX ".so" LIBRARY_OUTPUT_DIRECTORY ${stage})
    list(APPEND objects ${target})
  endforeach()
  add_custom_command(OUTPUT ${stage}/manifest.json
    COMMAND ${CMAKE_COMMAND} -E copy ${CMAKE_CURRENT_SOURCE_DIR}/manifest.json ${stage}/manifest.json
    COMMAND tenon-store seal ${stage}
    DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/manifest.json ${objects} tenon-store
    COMMENT "Sealing plugin ${id}")
  add_custom_target(${id}.staged ALL DEPENDS ${stage}/manifest.json)
  set_property(GLOBAL APPEND PROPERTY TENON_STAGED ${stage})
  set_property(GLOBAL APPEND PROPERTY TENON_STAGED_TARGETS ${id}.staged)
endfunction()

# Called once, after all plugins: the store that a build-tree `tenon` reads.
function(tenon_store)
  get_property(staged GLOBAL PROPERTY TENON_STAGED)
  get_property(targets GLOBAL PROPERTY TENON_STAGED_TARGETS)
  set(manifests ${staged})
  list(TRANSFORM manifests APPEND /manifest.json)
  add_custom_command(OUTPUT ${TENON_STORE}/installed
    COMMAND tenon-store install --store ${TENON_STORE} ${staged}
    COMMAND ${CMAKE_COMMAND} -E touch ${TENON_STORE}/installed
    DEPENDS ${manifests} ${targets} tenon-store
    COMMENT "Installing plugins into the store of the build tree")
  add_custom_target(store ALL DEPENDS ${TENON_STORE}/installed)
endfunction()

# tenon_plugin_test(ID sources... [LIBS libraries...]): the test <id>_test of a technique. It loads the very objects that ship, one per CPU
# level, through sdk/testing/host.h.
function(tenon_plugin_test id)
  if(NOT TENON_TESTS)
    return()
  endif()
  cmake_parse_arguments(ARG "" "" "LIBS" ${ARGN})
  tenon_test(${id}_test ${ARG_UNPARSED_ARGUMENTS} LIBS tenon::sdk ${CMAKE_DL_LIBS} ${ARG_LIBS})
  target_include_directories(${id}_test PRIVATE ${CMAKE_SOURCE_DIR})
  set(paths "")
  foreach(level ${TENON_CPU_LEVELS})
    list(APPEND paths ${TENON_STORE}/staging/${id}/${id}.onednn.${level}.so)
    add_dependencies(${id}_test ${id}.onednn.${level})
  endforeach()
  list(JOIN paths "|" paths)
  target_compile_definitions(${id}_test PRIVATE TENON_PLUGIN_OBJECTS="${paths}")
endfunction()
