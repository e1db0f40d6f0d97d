(define (problem reverse) (:domain tower)
  (:objects red green blue)
  (:init (on-ground red) (stands-on green red) (free green) (on-ground blue) (free blue) (arm-free))
  (:goal (and (stands-on red green) (stands-on green blue))))
