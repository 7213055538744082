# tenon_test(NAME sources... [LIBS libraries...]): one GoogleTest executable, registered with ctest under its own name.
# tenon_fuzz(NAME source [LIBS libraries...]): one libFuzzer target (clang, TENON_FUZZ=ON), run briefly by ctest over its seed corpus.
if(TENON_TESTS)
  find_package(GTest REQUIRED)
endif()

function(tenon_test name)
  if(NOT TENON_TESTS)
    return()
  endif()
  cmake_parse_arguments(ARG "" "" "LIBS" ${ARGN})
  add_executable(${name} ${ARG_UNPARSED_ARGUMENTS})
  target_link_libraries(${name} PRIVATE ${ARG_LIBS} GTest::gtest GTest::gtest_main)
  target_compile_options(${name} PRIVATE -O1)  # a third less time to compile; what is tested is compiled as it ships
  target_compile_definitions(${name} PRIVATE TENON_SOURCE_DIR="${CMAKE_SOURCE_DIR}" TENON_BINARY_DIR="${CMAKE_BINARY_DIR}")
  add_test(NAME ${name} COMMAND ${name})
endfunction()

if(NOT TARGET fuzzers)
  add_custom_target(fuzzers)  # all fuzz targets
endif()

function(tenon_fuzz name)
  if(NOT TENON_TESTS OR NOT TENON_FUZZ)
    return()
  endif()
  cmake_parse_arguments(ARG "" "" "LIBS" ${ARGN})
  add_executable(${name} ${ARG_UNPARSED_ARGUMENTS})
  target_link_libraries(${name} PRIVATE ${ARG_LIBS} -fsanitize=fuzzer)
  add_dependencies(fuzzers ${name})
  set(corpus ${CMAKE_CURRENT_SOURCE_DIR}/corpus/${name})
  if(NOT EXISTS ${corpus})
    set(corpus "")
  endif()
  file(MAKE_DIRECTORY ${CMAKE_BINARY_DIR}/fuzz/${name})
  add_test(NAME ${name} COMMAND ${name} -max_total_time=5 -max_len=65536 -rss_limit_mb=2048 ${CMAKE_BINARY_DIR}/fuzz/${name} ${corpus})
  set_tests_properties(${name} PROPERTIES LABELS fuzz)
endfunction()
