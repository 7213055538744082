# The generated layer against the golden table of the ABI: every struct, field and constant.
function layout_lines()
    lines = String[]
    for (row, value) in Tenon.LAYOUT
        if row isa String
            push!(lines, "$row = $value")
            continue
        end
        push!(lines, "struct $(nameof(row)) size $(sizeof(row)) align $(Base.datatype_alignment(row))")
        for (i, name) in enumerate(value)
            push!(lines, "  $name offset $(fieldoffset(row, i)) size $(sizeof(fieldtype(row, i)))")
        end
    end
    lines
end

@testset "layout" begin
    path = get(ENV, "TENON_GOLDEN_LAYOUT", joinpath(@__DIR__, "..", "..", "..", "..", "tests", "abi", "layout-0.9.txt"))
    golden = filter(line -> !startswith(line, "#"), readlines(path))
    @test length(golden) > 400
    @test layout_lines() == golden
end
