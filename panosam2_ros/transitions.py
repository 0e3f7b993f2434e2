"""Every request for a transition gets an answer, also when the transition is not allowed now."""

from __future__ import annotations

from lifecycle_msgs.srv import ChangeState
from rclpy._rclpy_pybind11 import RCLError
from rclpy.lifecycle import LifecycleNode


def answer_all_transitions(node: LifecycleNode) -> None:
    """Makes a node answer "no" where rclpy would raise out of spin and leave the caller waiting.

    Args:
        node: Of which nobody has asked for a transition yet.
    """
    service = node._service_change_state
    change = service.callback

    def answer(request: ChangeState.Request, response: ChangeState.Response) -> object:
        try:
            return change(request, response)
        except RCLError as error:
            wanted = request.transition.label or request.transition.id
            node.get_logger().error(f"refused transition {wanted}: {error}")
            response.success = False
            return response

    service.callback = answer
