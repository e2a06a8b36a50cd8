"""Evaluation by MTEB's protocols: tasks from folders, vectors from any model, comparable scores.

One task, or a whole folder of them with results on disk:

task = read_task("eval/STSBenchmark")
result = evaluate(model, task, truncate_to=256)
evaluate_folder(model, "eval", "results", name="me/model", revision="1")
"""

from culet.evaluate.encoding import Model, Settings
from culet.evaluate.evaluation import TaskResult, evaluate, evaluate_widths
from culet.evaluate.report import compare, print_report
from culet.evaluate.results import Evaluation, evaluate_folder, read_results
from culet.evaluate.tasks import EvalTask, TaskInfo, list_tasks, read_task

__all__ = [
    "EvalTask",
    "Evaluation",
    "Model",
    "Settings",
    "TaskInfo",
    "TaskResult",
    "compare",
    "evaluate",
    "evaluate_folder",
    "evaluate_widths",
    "list_tasks",
    "print_report",
    "read_results",
    "read_task",
]
