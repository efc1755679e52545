import { describe, expectTypeOf, it } from 'vitest';
import type { PayloadOf, TopicState, useTopic, useTopics } from '../src/index.js';

interface Quote {
  bid: string;
}

declare module '../src/index.js' {
  interface TopicPayloads {
    [topic: `typed-quotes:${string}`]: Quote;
    'typed-ops:nodes': Record<string, number>;
  }
}

describe('PayloadOf', () => {
  it('is what was declared for the topic, and unknown otherwise', () => {
    expectTypeOf<PayloadOf<'typed-quotes:A'>>().toEqualTypeOf<Quote>();
    expectTypeOf<PayloadOf<`typed-quotes:${string}`>>().toEqualTypeOf<Quote>();
    expectTypeOf<PayloadOf<'typed-ops:nodes'>>().toEqualTypeOf<Record<string, number>>();
    expectTypeOf<PayloadOf<'other:A'>>().toBeUnknown();
    expectTypeOf<PayloadOf<string>>().toBeUnknown();
    expectTypeOf<PayloadOf<'typed-quotes:A' | 'typed-ops:nodes'>>().toEqualTypeOf<
      Quote | Record<string, number>
    >();
  });

  it('is inferred by the hooks', () => {
    expectTypeOf<ReturnType<typeof useTopic<'typed-quotes:A'>>>().toEqualTypeOf<TopicState<Quote>>();
    // Never called: a hook needs a component. Only the types are looked at.
    const Component = (topic: typeof useTopic, topics: typeof useTopics): void => {
      expectTypeOf(topic('typed-quotes:A').data).toEqualTypeOf<Quote | undefined>();
      expectTypeOf(topic('typed-quotes:A', { maxRate: 1 }).events[0]?.data).toEqualTypeOf<
        Quote | undefined
      >();
      expectTypeOf(topic('typed-quotes:A', { select: (s) => s.data?.bid })).toEqualTypeOf<
        string | undefined
      >();
      const list: `typed-quotes:${string}`[] = [];
      expectTypeOf(topics(list).get('typed-quotes:A')?.data).toEqualTypeOf<Quote | undefined>();
      expectTypeOf(topic('other:A').data).toBeUnknown();
    };
    expectTypeOf(Component).toBeFunction();
  });
});
