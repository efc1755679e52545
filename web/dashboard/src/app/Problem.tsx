interface Props {
  topic: string;
  /** What could not be read. Nothing is shown where there is nothing. */
  problem: string | undefined;
}

/** The mark of a payload of which something could not be read. */
export function Problem({ topic, problem }: Props) {
  if (problem === undefined) return null;
  const text = `${topic}: ${problem}`;
  return (
    <span className="problem" role="img" aria-label={text} title={text} data-testid="problem">
      ⚠
    </span>
  );
}
