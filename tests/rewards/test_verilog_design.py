"""The `verilog` term with the real simulator, where it is installed."""

import shutil

import pytest

from rewards.response import Json, Response
from rewards.sandbox.choice import NoSandboxError, sandbox
from rewards.verilog_design import NoSimulatorError, is_fair, verilog_reward

TESTBENCH = """
module test;
  reg clk = 0, reset = 1; wire [3:0] q;
  counter dut(.clk(clk), .reset(reset), .q(q));
  always #5 clk = ~clk;
  initial begin
    #12 reset = 0;
    repeat (20) begin @(negedge clk) $display("%d", q); end
    $finish;
  end
endmodule
"""
COUNTER = """
module counter(input clk, input reset, output reg [3:0] q);
  always @(posedge clk) if (reset) q <= 0; else q <= q + 1;
endmodule
"""


@pytest.fixture
def _simulator() -> None:
    if shutil.which("iverilog") is None:
        pytest.skip("Icarus Verilog is not installed")
    try:
        sandbox()
    except NoSandboxError as error:
        pytest.skip(str(error))


def designed(design: str, reference: str | None = COUNTER, **metadata: Json) -> Response:
    return Response("s", "q", f"```verilog\n{design}\n```", reference, {"testbench": TESTBENCH, **metadata})


RIGHT = [
    COUNTER,
    "module add(input [3:0] a, output [3:0] b); assign b = a + 1; endmodule\n"
    "module counter(input clk, input reset, output reg [3:0] q);\nwire [3:0] n; add one(.a(q), .b(n));\n"
    "always @(posedge clk) q <= reset ? 4'd0 : n;\nendmodule",
    "`timescale 1ns/1ps\nmodule counter(input clk, reset, output logic [3:0] q);\n"
    "always_ff @(posedge clk) if (reset) q <= '0; else q <= 4'($unsigned(q) + 1);\nendmodule",
]
WRONG = [
    COUNTER.replace("q + 1", "q + 2"),
    COUNTER.replace("posedge", "negedge"),
    COUNTER.replace("if (reset) q <= 0; else", ""),
    COUNTER.replace("[3:0]", "[2:0]"),
    "module counter(input clk, input reset, output reg [3:0] q); endmodule",
    "module counter(input clk, input reset, output reg [3:0] q);\n"
    "reg a; initial begin #20 a = 0; forever a = ~a; end endmodule",
]
BROKEN = ["", "module counter(", "not verilog", "module other(); endmodule", COUNTER.replace("counter", "Counter")]
CHEATING = [
    COUNTER.replace("endmodule", 'initial $display("0"); endmodule'),
    COUNTER.replace("endmodule", "initial $finish; endmodule"),
    COUNTER.replace("endmodule", "initial $ finish ; endmodule"),
    COUNTER.replace("endmodule", 'initial $system("id"); endmodule'),
    COUNTER.replace("endmodule", "initial force test.reset = 0; endmodule"),
    COUNTER.replace("endmodule", "initial test.reset = 0; endmodule"),
    COUNTER.replace("endmodule", "/* */ initial /* */ test /* */ . reset = 0; endmodule"),
    '`include "/etc/passwd"\n' + COUNTER,
    COUNTER.replace("endmodule", "initial \\test .reset = 0; endmodule"),
    "bind test evil e();\n" + COUNTER,
]


@pytest.mark.usefixtures("_simulator")
@pytest.mark.parametrize("design", RIGHT)
def test_right_designs(design: str) -> None:
    assert verilog_reward(designed(design)) == 1.0


@pytest.mark.usefixtures("_simulator")
def test_tiers() -> None:
    assert [verilog_reward(designed(design), compiles=0.25, run_s=1.0) for design in WRONG] == [0.25] * len(WRONG)
    assert [verilog_reward(designed(design), compiles=0.25) for design in BROKEN] == [0.0] * len(BROKEN)
    assert [verilog_reward(designed(design), compiles=0.25) for design in CHEATING] == [0.0] * len(CHEATING)
    assert verilog_reward(Response("s", "q", "no code", COUNTER, {"testbench": TESTBENCH})) == 0.0


@pytest.mark.usefixtures("_simulator")
def test_expected_text_stands_for_a_reference() -> None:
    expected = " ".join(str((n + 1) % 16) for n in range(20))
    assert verilog_reward(designed(COUNTER, None, expected=expected)) == 1.0
    assert verilog_reward(designed(WRONG[0], None, expected=expected)) == 0.0


@pytest.mark.usefixtures("_simulator")
def test_the_datas_faults_are_errors() -> None:
    with pytest.raises(ValueError, match="reference design fails"):
        verilog_reward(designed(COUNTER, "module nonsense"))
    with pytest.raises(ValueError, match="prints nothing"):
        verilog_reward(designed(COUNTER, testbench="module test; endmodule"))
    with pytest.raises(ValueError, match="needs a testbench"):
        verilog_reward(Response("s", "q", "```v\n\n```", COUNTER))


@pytest.mark.parametrize("design", CHEATING)
def test_a_design_that_speaks_for_the_testbench_is_not_run(design: str) -> None:
    assert not is_fair(design, TESTBENCH)


@pytest.mark.parametrize("design", [*RIGHT, *WRONG])
def test_a_plain_design_is_fair(design: str) -> None:
    assert is_fair(design, TESTBENCH)


def test_without_the_simulator_the_term_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda *_, **__: None)
    with pytest.raises(NoSimulatorError, match="install the Debian package iverilog"):
        verilog_reward(designed(COUNTER))
